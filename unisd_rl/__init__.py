"""UniSD-RL: distributed actor-learner on-policy self-distillation of language models."""
