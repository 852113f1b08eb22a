"""Cosines of task embeddings, and the clusters in them: with what the devices add for privacy, too.

Nodes hold texts of several tasks, some of them a mixture; each is embedded by the real client code
(`flower_strategy.device.embedding`) with the real base model. Then `flower_strategy.clusters`
splits them, and the split is held against the tasks that are known here.

Figure 5 of "Floe: Federated Specialization for Real-Time LLM-SLM Inference" (arXiv 2602.14302).
"""
