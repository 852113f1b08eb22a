"""Secrets in markup, command lines, headers and files, and what only looks like one."""

import time

import pytest

from floe_plugins.gate import Decision, Gate
from floe_plugins.gate.detectors.placeholders import is_generated, is_placeholder, is_wordy
from floe_plugins.gate.detectors.secrets import SecretDetector

GATE = Gate(detectors=("email", "secret"), timeout_s=30)

# Text to the value that must be covered exactly.
FOUND = {
    # elements and attributes
    "<db><Password>k1tt3n!Paws</Password></db>": "k1tt3n!Paws",
    "<userPassword type='plain'>blue whale 77</userPassword>": "blue whale 77",
    "<accessToken>\n  9d0c1f7e55aa40b2\n</accessToken>": "9d0c1f7e55aa40b2",
    "<pwd><![CDATA[a&b9]]></pwd>": "a&b9",
    "<add key='ApiKey' value='Zx81kLmQ02vv9TTe'/>": "Zx81kLmQ02vv9TTe",
    '<property name="db.password" value="Winter2024!"/>': "Winter2024!",
    '<entry key="smtp.password">Winter2024!</entry>': "Winter2024!",
    '<input type="password" name="p" value="Winter2024!">': "Winter2024!",
    # command lines
    "curl --user 'kim:9lives' https://example.org": "kim:9lives",
    "wget -q x; curl -ukim -u kim:a:b@c -X GET example.org": "kim:a:b@c",
    "sshpass -p 'T1ger' ssh kim@host": "T1ger",
    "sshpass -pT1ger ssh host": "T1ger",
    "mysqldump --single-transaction -h db -u app -pT1gerT1ger shop": "T1gerT1ger",
    "docker login -u kim -p T1ger registry": "T1ger",
    "redis-cli -h cache -a T1ger ping": "T1ger",
    "tool --db-password=T1ger run": "T1ger",
    "tool --api-key 8f14e45fceea167a": "8f14e45fceea167a",
    "openssl rsa -passin pass:T1ger -in k": "T1ger",
    "PGPASSWORD=T1ger psql -h db": "T1ger",
    # headers
    "authorization: basic a2ltOjlsaXZlcw==": "a2ltOjlsaXZlcw==",
    '-H "Authorization: Bearer 0a1b2c3d4e5f"': "0a1b2c3d4e5f",
    "X-API-Key: 0a1b2c3d4e5f6071": "0a1b2c3d4e5f6071",
    # names and shapes
    "key = qL8vRt2WmZ0pXc5nJd7hBs3y": "qL8vRt2WmZ0pXc5nJd7hBs3y",
    "SECRET_KEY_BASE: 5b0d9f2c71ae": "5b0d9f2c71ae",
    "client_secret='f00dBabe1234'": "f00dBabe1234",
    "the access token was qL8vRt2WmZ0pXc5nJd7hBs3y": "qL8vRt2WmZ0pXc5nJd7hBs3y",
    "hub_token: QvBnMkLpOiUyTrEwQaSdFgHjKlZxCv": "QvBnMkLpOiUyTrEwQaSdFgHjKlZxCv",
    "https://hooks.slack.com/services/T0AB12CD3/B0EF45GH6/a1B2c3D4e5F6g7H8": (
        "T0AB12CD3/B0EF45GH6/a1B2c3D4e5F6g7H8"
    ),
    "https://discord.com/api/webhooks/1234567890/aB3_dE5-gH7": "aB3_dE5-gH7",
    "pscale_tkn_0a1b2c3d4e5f6071829304a5": "pscale_tkn_0a1b2c3d4e5f6071829304a5",
    # passwords
    "MAIL_PASS=bluewhale": "bluewhale",
    "db_pwd: 'blue whale on 3 hills'": "blue whale on 3 hills",
    "pw = wäl9fisch!": "wäl9fisch!",
    "Passwort: Wal9 fisch hügel.": "Wal9 fisch hügel",
    "password: Wal9!fisch and the user is kim": "Wal9!fisch",
    "password=Wal9fisch,user=kim": "Wal9fisch",
    "mot de passe : Wal9fisch": "Wal9fisch",
    # URLs
    "ftp://kim:9@li:ves@example.org/x": "kim:9@li:ves",
    "redis://:9lives@cache:6379": ":9lives",
    "see https://kim:9lives@example.org/a@b": "kim:9lives",
}


@pytest.mark.parametrize(("text", "value"), FOUND.items())
def test_secrets_are_covered_whole(text: str, value: str) -> None:
    assert [text[span.start : span.end] for span in SecretDetector().detect(text)] == [value]


ORDINARY = [
    # expressions and names of programs
    'pwd = request.json["pwd"]',
    "password = req.body.password;",
    "const password = useRef(null)",
    "password: Joi.string().required()",
    "password: str, token: Optional[str] = None",
    "password = os.environ.get('DB_PASSWORD')",
    "PASSWORD = config('DB_PASSWORD')",
    "password=form.cleaned_data",
    "user.password = hashedPassword",
    "password = new_password",
    "if password == stored_password: pass",
    "'password' => Hash::make($input)",
    "'password' => 'required|min:8|confirmed',",
    'password: "#password", token: ".token-field"',
    'document.querySelector("#password").value',
    "password VARCHAR(255) NOT NULL",
    "password = models.CharField(max_length=128)",
    "password: { type: String, required: true }",
    "$password = $_POST['password'];",
    "token = jwt.encode(payload, app.config['SECRET_KEY'])",
    "secret_key = secrets.token_urlsafe(32)",
    "api_key = os.getenv('OPENAI_API_KEY')",
    "key = self.keys_of_internal_mapping_table",
    "[sk-container-id-1 sk-toggleable__content-label]",
    "npm_configurationDirectoryOfProject",
    # placeholders
    "api_key=YOUR_API_KEY_1234567890",
    "sk-xxxxxxxxxxxxxxxxxxxxxxxx, AKIAXXXXXXXXXXXXXXXX",
    "Authorization: Bearer <token>, Bearer ${TOKEN}, Bearer YOUR_ACCESS_TOKEN_123",
    "curl -u user:password -u $USER:$PASS -u <user>:<pass> https://example.org",
    "password: ********, pwd: <your password>, token: {{ token }}",
    "https://hooks.slack.com/services/XXXXXXXXX/XXXXXXXXX/XXXXXXXX",
    "mysql -u root -p shop; mysql -u root -p$PASS",
    "postgres://postgres:postgres@localhost/db and https://user:password@example.org",
    "<password>${db.password}</password><token>word</token>",
    "sshpass -p $PASS ssh host; docker run -p 8080:80 -u 1000:1000 app",
    # prose
    "Password: must have at least eight characters",
    '{"password": "Password is required"}',
    "the first pass: compute the sums; pass: true",
    "My password is not working today",
    "Is the --password option safe?",
    "<label for='password'>Password</label> <th>Password</th>",
    "A basic understanding of bearer bonds",
    "primary key: 550e8400-e29b-41d4-a716-446655440000",
    "http://localhost:3000/@kim",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_what_only_looks_like_a_secret(text: str) -> None:
    verdict = GATE.decide(text)
    assert verdict.decision is Decision.CLEAR, [
        text[span.start : span.end] for span in verdict.spans
    ]


def test_what_is_generated() -> None:
    assert is_generated("5b0d9f2c71ae", named=True)
    assert not is_generated("5b0d9f2c71ae", named=False)
    assert not is_generated("the_quick_brown_fox_2", named=True)
    assert is_wordy("requiredCharacteristicTypes")
    assert not is_wordy("BsDaN7ZU7kFiUX5CpN8CUf3nkMaSeZYn")
    assert is_placeholder("your-token-here")
    assert not is_placeholder("yqL8vRt2WmZ0")


def test_redaction_keeps_no_part() -> None:
    gate = Gate(detectors=("email", "secret"), policy="redact", timeout_s=30)
    for text, parts in {
        "password: Wal9! fisch hügel": ("Wal9", "fisch", "hügel"),
        "https://kim:9@li:ves@host.example/x": ("9@", "ves"),
        "passphrase: blue whale; pwd: 'grey whale 9'": ("blue", "grey", "whale"),
    }.items():
        verdict = gate.decide(text)
        assert verdict.redacted_text is not None
        assert not any(part in verdict.redacted_text for part in parts)


HOSTILE = (
    *("password: ", "<password ", "<token>a", "-p a ", "mysql -p", "://a:", "://a:b@c", "key=a"),
    *("bearer ", "pass=a.b(", 'type="password" ', "--a-a-", "a_Pass:'", "hook.make.com/"),
)


@pytest.mark.parametrize("unit", HOSTILE)
def test_hostile_texts_take_linear_time(unit: str) -> None:
    def seconds(size: int) -> float:
        text = (unit * (size // len(unit) + 1))[:size]
        started = time.thread_time()
        SecretDetector().detect(text)
        return time.thread_time() - started

    seconds(1000)
    # Quadratic time would be a factor of 64. A busy machine can make one run slow.
    longest = min(seconds(100_000) for _ in range(3))
    assert longest < 24 * max(seconds(12_500), 0.02)


@pytest.mark.parametrize("text", ["GET /login?/password=&password= HTTP", "password=", "pwd:;pwd:"])
def test_a_password_without_a_value_is_none(text: str) -> None:
    verdict = Gate(detectors=["secret"]).decide(text)
    assert verdict.decision is Decision.CLEAR
    assert not verdict.failures
