"""The device's server: llama.cpp's where the SLM has a GGUF file, else vLLM's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from floe_plugins.errors import ModelError
from floe_plugins.models import resolve
from floe_plugins.models.gguf_file import resolve_gguf
from integration_tests.demo.federation import Federation
from integration_tests.harness.llama_servers import adapter_ids, slm_server
from integration_tests.harness.vllm_servers import FORGETS, Server, ServerSpec, running

#: Texts that the device's server keeps: as many as the cloud's takes into a step.
_SLOTS = 8
#: Prompt and answer; the same for both servers.
_CONTEXT = 1024


@dataclass(frozen=True, kw_only=True)
class Device:
    """The device's server with all adapters of a run.

    Attributes
    ----------
    server : Server
    engine : str
        ``llama.cpp`` or ``vllm``.
    ids : mapping of str to int
        The ids by which llama.cpp knows the adapters.
    """

    server: Server
    engine: str
    ids: Mapping[str, int]

    def asked(self, adapter: str | None) -> dict[str, Any]:
        """Return what a request says to be answered with an adapter; None for the model alone."""
        if self.engine == "vllm":
            return {} if adapter is None else {"model": adapter}
        scales = {number: float(name == adapter) for name, number in self.ids.items()}
        return {"lora": [{"id": number, "scale": scale} for number, scale in scales.items()]}

    def forget_prompts(self) -> None:
        """Have the next request's prompt read from its beginning."""
        if self.engine == "vllm":
            self.server.forget_prompts()
            return
        for slot in range(_SLOTS):
            # The text that was used longest ago is replaced by one that begins like no other.
            self.server.complete(chr(ord("A") + slot) * 2, max_tokens=1, **self.asked(None))


@contextmanager
def device_server(
    federation: Federation, folder: Path, *, waiting: Callable[[str, float], None]
) -> Iterator[Device]:
    """Start the server of the SLM with the run's adapters on the first core; stop it on exit."""
    slm, logs = str(federation.manifest["model"]), folder / "logs"
    if has_gguf(slm):
        with slm_server(
            slm,
            name="slm",
            logs=logs,
            adapters=federation.folder,
            context=_CONTEXT,
            slots=_SLOTS,
            core=0,
            waiting=waiting,
        ) as server:
            yield Device(server=server, engine="llama.cpp", ids=adapter_ids(server))
        return
    modules = [f"{name}={path}" for name, path in federation.adapters.items()]
    rank = str(federation.manifest["rank"])
    lora = ["--enable-lora", "--max-lora-rank", rank, "--max-loras", str(len(modules))]
    spec = ServerSpec(
        model=resolve(slm),
        name="slm",
        core=0,
        arguments=[*lora, "--lora-modules", *modules],
        variables=FORGETS,
    )
    with running(spec, logs=logs, waiting=waiting) as (server,):
        yield Device(server=server, engine="vllm", ids={})


def has_gguf(model: str) -> bool:
    """Tell whether there is a GGUF file of a model."""
    try:
        resolve_gguf(model)
    except ModelError:
        return False
    return True


class Scorer:
    """Scores texts with the SLM and a run's adapters, in this process: llama.cpp scores none."""

    def __init__(self, model: str, adapters: Mapping[str, Path]) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        (first, path), *others = adapters.items()
        self._model = PeftModel.from_pretrained(base, path, adapter_name=first).eval()
        for name, path in others:
            self._model.load_adapter(path, adapter_name=name)

    def nats(self, ids: Sequence[int], *, adapter: str | None) -> float:
        """Return -ln p of all tokens but the first, by the model alone if `adapter` is None."""
        import torch

        if adapter is not None:
            self._model.set_adapter(adapter)
        alone = self._model.disable_adapter() if adapter is None else nullcontext()
        text = torch.tensor([list(ids)])
        with alone, torch.inference_mode():
            logprobs = self._model(text).logits[0, :-1].log_softmax(dim=-1)
        return -float(logprobs.gather(1, text[0, 1:, None]).double().sum())
