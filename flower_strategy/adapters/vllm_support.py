"""Whether vLLM serves the adapters of a base model.

vLLM decides by its own class for an architecture. Where a federation's server runs there is rarely
a vLLM, and the one that serves may be of another release: the table is of one release, which is
named, and a test compares it with an installed vLLM of that release.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flower_strategy.adapters.modules import AdaptedModules

RELEASE = "0.32"
"""The release of vLLM that the table is of."""

_TAKES = """
AfmoeForCausalLM ApertusForCausalLM ArceeForCausalLM AXK1ForCausalLM Cohere2ForCausalLM
CohereForCausalLM CwmForCausalLM DeepseekV2ForCausalLM DeepseekV32ForCausalLM
DeepseekV3ForCausalLM Ernie4_5_MoeForCausalLM Ernie4_5ForCausalLM Exaone4ForCausalLM
ExaoneMoeForCausalLM FalconH1ForCausalLM FlexOlmoForCausalLM Gemma2ForCausalLM Gemma3ForCausalLM
Gemma3ForConditionalGeneration Gemma4ForCausalLM Gemma4ForConditionalGeneration
Gemma4UnifiedForConditionalGeneration GemmaForCausalLM Glm4ForCausalLM Glm4MoeForCausalLM
Glm4MoeLiteForCausalLM GlmForCausalLM GlmMoeDsaForCausalLM GPTBigCodeForCausalLM
GPTNeoXForCausalLM GptOssForCausalLM GraniteForCausalLM GraniteMoeForCausalLM
GraniteMoeHybridForCausalLM GraniteMoeSharedForCausalLM GraniteMoeSWAForCausalLM
GraniteSWAForCausalLM HunYuanDenseV1ForCausalLM HunYuanMoEV1ForCausalLM HyperCLOVAXForCausalLM
HYV3ForCausalLM HYV4ForCausalLM InklingForCausalLM Jais2ForCausalLM JambaForCausalLM
LagunaForCausalLM Lfm2ForCausalLM Lfm2MoeForCausalLM Llama4ForCausalLM LlamaForCausalLM
LongcatFlashForCausalLM MellumForCausalLM MiniCPM3ForCausalLM MiniMaxM2ForCausalLM
Ministral3ForCausalLM MistralForCausalLM MixtralForCausalLM NemotronForCausalLM
NemotronHForCausalLM Olmo2ForCausalLM Olmo3ForCausalLM OlmoeForCausalLM OlmoForCausalLM
OlmoHybridForCausalLM OPTForCausalLM Phi3ForCausalLM PhiForCausalLM Qwen2ForCausalLM
Qwen2MoeForCausalLM Qwen3_5ForCausalLM Qwen3_5MoeForCausalLM Qwen3ForCausalLM Qwen3MoeForCausalLM
Qwen3NextForCausalLM SeedOssForCausalLM SmolLM3ForCausalLM Starcoder2ForCausalLM
VaultGemmaForCausalLM
"""
_REFUSES = """
BloomForCausalLM Cohere2MoeForCausalLM DbrxForCausalLM DeepseekV4ForCausalLM FalconForCausalLM
FalconMambaForCausalLM Gemma3nForCausalLM Gemma3nForConditionalGeneration GPT2LMHeadModel
GPTJForCausalLM HrmTextForCausalLM KimiLinearForCausalLM Mamba2ForCausalLM MambaForCausalLM
MiMoV2FlashForCausalLM Qwen4ExpForCausalLM StableLmForCausalLM Zamba2ForCausalLM
"""

TAKES = frozenset(_TAKES.split())
"""Architectures of causal language models whose class in vLLM supports LoRA."""

REFUSES = frozenset(_REFUSES.split())
"""Those whose class in vLLM does not."""


@dataclass(frozen=True)
class VllmSupport:
    """What vLLM does with an adapter.

    Attributes
    ----------
    takes : bool or None
        Whether it serves it with ``--enable-lora``; None where the table does not know.
    says : str
        The same as a sentence, with what to do where it does not.
    """

    takes: bool | None
    says: str

    def to_json(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        return {"release": RELEASE, "takes": self.takes, "says": self.says}


def vllm_support(modules: AdaptedModules) -> VllmSupport:
    """Return whether vLLM serves adapters with factors on these modules."""
    kind = modules.architecture
    if kind in REFUSES:
        return VllmSupport(
            False,
            f"vLLM {RELEASE} serves no adapters for {kind}: merge the exported one into the base "
            "model with PEFT's merge_and_unload.",
        )
    if kind in TAKES:
        # Its layer for experts, which it puts in with --enable-lora, is made of Triton kernels.
        where = ", on GPUs alone" if modules.is_mixture else ""
        says = f"vLLM {RELEASE} serves the adapters with --enable-lora{where} ({kind})."
        return VllmSupport(True, says)
    return VllmSupport(
        None,
        f"vLLM {RELEASE} has no class of its own for {kind}, and whether it serves adapters is not "
        "known: start it with --enable-lora on the base model before a long run.",
    )
