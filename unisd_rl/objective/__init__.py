"""The objective of UniSD (Jin et al., arXiv 2605.06597) in pure torch: what an optimiser step minimises.

Where it stands in the data's path, per optimiser step on each rank:

```
 no-gradient passes of all micro-batches      kernels.chunked.token_logprobs (auxiliary views; primary and negative for
                                              contrast on log-probs)
 (only for a quantile clip, the student too)  kernels.chunked.token_divergence
        |  step.ScoringInputs: one number per token and view, as far as the settings need them
        v
 unisd.step_terms  <-- gather over ranks      reduction (or reference_reductions), agreement, clipping: counts, shares,
        |                                     weights, threshold; each term's coefficients
        |  unisd.StepTerms: the terms that are on, with one coefficient per token, all global numbers inside
        v
 per micro-batch unisd.micro_batch_loss       kernels.chunked.scored_tokens (divergence, contrastive, likelihood);
        |                                     matching
        |  loss with gradient, unisd.MicroReport
        v
 optimiser step, then ema.ema_update_         unisd.loss_metrics
```

What is on is said by `unisd_rl.config.objective`, as is what is on but cannot act.

Legend of the shape letters on tensor names: N tokens (packed, no padding), S sequences, V vocabulary, H hidden,
K auxiliary views, C tokens of one chunk, R rows of one block of a chunk.
"""
