"""GRPO that holds back the tokens whose covariance of log-prob and advantage takes the entropy away."""
