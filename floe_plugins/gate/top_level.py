"""Top-level domains: what an address ends with."""

import re

# Those of countries (ISO 3166-1 and the few that the root zone has besides).
_COUNTRIES = (
    "ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs"
    " bt bw by bz ca cc cd cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee"
    " eg er es et eu fi fj fk fm fo fr ga gd ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm"
    " hn hr ht hu id ie il im in io iq ir is it je jm jo jp ke kg kh ki km kn kp kr kw ky kz la lb"
    " lc li lk lr ls lt lu lv ly ma mc md me mg mh mk ml mm mn mo mp mq mr ms mt mu mv mw mx my mz"
    " na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt pw py qa re ro rs"
    " ru rw sa sb sc sd se sg sh si sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th tj tk tl"
    " tm tn to tr tt tv tw tz ua ug uk us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw"
)
_GENERIC = (
    "com org net edu gov mil int info biz name pro mobi app dev xyz online site tech store shop"
    " cloud email blog live news agency company world life today solutions digital london berlin"
    " paris nyc test example localhost local lan internal corp invalid"
)

#: Country codes that are words of a sentence at least as often as the end of an address.
_WORDS = frozenset("am as at be do in is it me my no so to us".split())  # noqa: SIM905

KNOWN = "|".join(sorted((*_COUNTRIES.split(), *_GENERIC.split()), key=len, reverse=True))
"""Alternatives of a pattern, without regard to case: domains that addresses commonly end with."""

UNMISTAKABLE = "|".join(
    sorted(
        (*(set(_COUNTRIES.split()) - _WORDS), *_GENERIC.split()),
        key=lambda name: (-len(name), name),
    )
)
"""Like `KNOWN`, without those that are common words."""

#: Ends of file names and of names in programs that have the form of a top-level domain.
_NAMES = (
    "png jpg jpeg gif svg webp ico bmp tiff pdf txt rst html htm css scss less js jsx mjs ts tsx"
    " vue java class jar kt php cpp hpp json yaml yml toml xml csv tsv lock conf cfg ini log exe"
    " dll gz tgz tar rar bak tmp sql db service socket target mount slice timer device alpha beta"
    " rc snapshot release final latest route get post put delete patch method setter getter"
    " deleter fixture mark command event property call register task shape transpose reshape dot"
    " mean value length id data items keys values"
)
_NO_DOMAINS = frozenset(_NAMES.split())
_ENDS = re.compile(r"(?P<name>xn--[a-z0-9-]+|[^\W\d_]{2,24})(?![^\W_])", re.IGNORECASE)


def is_top_level(name: str) -> bool:
    """Return whether a dotted name's last part may be a domain: no number, no file's ending."""
    end = _ENDS.match(name)
    return end is not None and end["name"].lower() not in _NO_DOMAINS
