"""tandem: LoRA-finetune InternVL models on Kubernetes, evaluate them, keep results that can be trusted."""

__version__ = "0.1.0"
