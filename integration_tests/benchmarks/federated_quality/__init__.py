"""Held-out loss of Floe and of other ways of federated LoRA, within one virtual wall-clock budget.

From the same mixture of tasks on all devices to one task per device: same devices, same data, same
local training, same budget. `world` holds what is the same for all methods, `methods` what differs.
"""
