"""Seconds of a round over the LoRA rank, per class of device, measured and as the policy predicts.

The real client trains SmolLM2 at every rank on the clock of a simulated device (processor time per
thread). As in a run, the device measures itself first, one step at the smallest rank and one at the
largest; the rank policy draws a line through these two, and the ranks between show how far it is
off. A class of device is this machine's seconds times its slowdown, and its uplink.

Figure 4 of "Floe: Federated Specialization for Real-Time LLM-SLM Inference" (arXiv 2602.14302).
"""
