"""The objective of UniSD (Jin et al., arXiv 2605.06597) in pure torch: what an optimiser step minimises.

Where it stands in the data's path, per optimiser step on each rank:

```
 no-gradient passes of all micro-batches      chunked.realised_logprobs (primary, auxiliary, negative views)
 (only for a quantile clip, the student too)  chunked.token_divergence
        |  TokenSignals: one number per token and view
        v
 unisd.step_terms  <-- gather over ranks      agreement, clipping, reduction: weights, kappa, denominators
        |  StepTerms: one coefficient per token, all global numbers inside
        v
 per micro-batch unisd.micro_batch_loss       chunked.scored_tokens (divergence + contrastive), matching
        |  loss with gradient, MicroReport
        v
 optimiser step, then ema.ema_update_
```

Legend of the shape letters on tensor names: N tokens (packed, no padding), S sequences, V vocabulary, H hidden,
K auxiliary views, C tokens of one chunk, R rows of one block of a chunk.
"""
