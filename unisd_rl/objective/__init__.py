"""The objective of UniSD (Jin et al., arXiv 2605.06597) in pure torch: what an optimiser step minimises.

Where it stands in the data's path, per optimiser step on each rank:

```
 no-gradient passes of all micro-batches      chunked.token_logprobs (auxiliary views; primary and negative for
                                              contrast on log-probs)
 (only for a quantile clip, the student too)  chunked.token_divergence
        |  signals.TokenSignals: one number per token and view, as far as the settings need them
        v
 unisd.step_terms  <-- gather over ranks      agreement, clipping, reduction (or released): weights, kappa, denominators
        |  terms.StepTerms: one coefficient per token, all global numbers inside
        v
 per micro-batch unisd.micro_batch_loss       chunked.scored_tokens (divergence, contrast, likelihood), matching
        |  loss with gradient, step.MicroReport
        v
 optimiser step, then ema.ema_update_
```

What is on is said by `unisd_rl.config.objective`, as is what is on but cannot act.

Legend of the shape letters on tensor names: N tokens (packed, no padding), S sequences, V vocabulary, H hidden,
K auxiliary views, C tokens of one chunk, R rows of one block of a chunk.
"""
