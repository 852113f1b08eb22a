"""The run configuration's keys of what devices hold and do."""

from __future__ import annotations

from dataclasses import dataclass

from flower_strategy import config_keys as keys

_DEVICES_HELP = (
    "Classes of the simulated devices, given to the nodes in turn. A real SuperNode is measured, "
    "and its --node-config says what cannot be."
)
_DEVICES_ACCEPTS = (
    "names among phone, jetson, laptop, or NAME:GIB:SLOWDOWN:MBPS "
    "(memory, times slower than this machine, upload in MB/s), separated by commas"
)


@dataclass(frozen=True, kw_only=True)
class DeviceKeys:
    """Base model, data, local training, task embedding, device classes."""

    model: str = keys.keyed(
        "embedded:smollm2-135m-instruct",
        keys.text("The frozen base model: a folder, a hub id, or an embedded model's name."),
    )
    dtype: str = keys.keyed(
        "float32",
        keys.choice(
            "Type of the base model's weights on the devices; on CPUs without bfloat16 "
            "instructions float32 is some 20 times faster.",
            "float32",
            "bfloat16",
        ),
    )
    data: str = keys.keyed(
        "embedded",
        keys.text(
            "Training text of simulated devices: 'embedded' (tasks made at run time), JSONL files "
            "or folders separated by commas (relative paths as those of output), or a hub data "
            "set's id (OWNER/NAME, or OWNER/NAME:CONFIGURATION). Every file is one task."
        ),
    )
    prompt_template: str = keys.keyed(
        "",
        keys.text(
            "Template of the prompt over a row's fields, such as '{question}\\nAnswer:'; "
            "empty recognises common fields.",
            empty=True,
        ),
    )
    response_template: str = keys.keyed(
        "",
        keys.text(
            "Template of the response over a row's fields; given with prompt-template.", empty=True
        ),
    )
    tasks: tuple[str, ...] = keys.keyed(
        ("code", "arithmetic", "records"),
        keys.names(
            "The embedded tasks that are dealt out.",
            "names among code, arithmetic, records, separated by commas",
        ),
    )
    mix: float = keys.keyed(
        0.1,
        keys.number(
            "Share of a node's examples that is drawn from all tasks alike: 0 gives each node "
            "one task, 1 gives all nodes the same mixture.",
            low=0,
            high=1,
        ),
    )
    max_examples: int = keys.keyed(
        128,
        keys.integer(
            "Most examples that a node holds, at least 2; 0 keeps all.", low=0, high=10_000_000
        ),
    )
    held_out: float = keys.keyed(
        0.2,
        keys.number(
            "Share of a node's examples kept out of training, to measure the loss on.",
            low=0.01,
            high=0.9,
        ),
    )
    eval_examples: int = keys.keyed(
        8,
        keys.integer(
            "Most held-out examples used per evaluation; 0 uses all.", low=0, high=1_000_000
        ),
    )
    local_steps: int = keys.keyed(
        3, keys.integer("Optimizer steps per device and round.", low=1, high=1_000_000)
    )
    batch_size: int = keys.keyed(4, keys.integer("Examples per step.", low=1, high=4096))
    learning_rate: float = keys.keyed(
        2e-3, keys.number("AdamW's learning rate on the devices.", low=0, high=1, above=True)
    )
    max_length: int = keys.keyed(
        64,
        keys.integer(
            "Most tokens of an example, no more than the model has positions; longer prompts lose "
            "their beginning.",
            low=8,
            high=131_072,
        ),
    )
    alpha: float = keys.keyed(
        0.0, keys.number("LoRA's alpha; 0 means alpha = rank on every device.", low=0, high=4096)
    )
    rslora: bool = keys.keyed(
        False, keys.flag("Scale by alpha / sqrt(rank) rather than alpha / rank.")
    )
    devices: tuple[str, ...] = keys.keyed(
        ("phone", "jetson", "laptop"), keys.names(_DEVICES_HELP, _DEVICES_ACCEPTS)
    )
    embedding_texts: int = keys.keyed(
        8, keys.integer("Local texts that the task embedding averages over.", low=1, high=100_000)
    )
    embedding_noise: float = keys.keyed(
        0.0,
        keys.number(
            "Standard deviation of the Gaussian noise that the device adds to every number of its "
            "averaged embedding, a mean of vectors of length 1; a device answers with more where "
            "it has done so before.",
            low=0,
            high=100,
        ),
    )
    seed: int = keys.keyed(
        0, keys.integer("Seed of data, initial adapter and batches.", low=0, high=2**31 - 1)
    )
    proximal: float = keys.keyed(
        0.0,
        keys.number(
            "FedProx's mu: local training is pulled back towards the adapter that came, by mu/2 "
            "times the squared distance of the factors; 0 does not pull.",
            low=0,
            high=1e6,
        ),
    )
    clock: str = keys.keyed(
        "virtual",
        keys.choice(
            "How a simulated device is slow: 'virtual' multiplies the processor seconds that it "
            "reports, 'real' makes it wait.",
            "virtual",
            "real",
        ),
    )
    smoothness_steps: int = keys.keyed(
        0,
        keys.integer(
            "Steps of the power iteration by which each device estimates the smoothness L of its "
            "loss, to check the learning rate against Theorem 1; 0 does not estimate.",
            low=0,
            high=1000,
        ),
    )
