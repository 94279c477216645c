"""The two wires between the processes, both halves of each side by side, and what crosses them.

```
rollouts/   driver -> queue   `admit`: NumberedPrompt;  `take`: a QueueBatch, one Arrow shard a learner rank
            actor  -> queue   five calls (`actor_client.LeaseQueue`):
                                lease    (applied PolicyVersion, wanted) -> NumberedPrompts that may start
                                renew    the prompt numbers the actor holds
                                commit   Rollouts, as an Arrow IPC stream of `schema.SCHEMA`, and what to lease next
                                         (`wire.py`)
                                fail     a prompt number and the reason
                                release  everything the actor holds
weights/    learner -> store  `put`: a SnapshotManifest and its buckets of bytes
            actor  <- store   `newest`, `at_least`: a Snapshot (the manifest, and references to the buckets)
            actor  -> vLLM    the manifest as JSON and the paths of shared memory, or the folder of an adapter
            learner -> actor  nccl and ipc only: the six calls of `vllm_trainer.VllmPushEndpoint`
```

The driver's own calls on an actor (start, update, answer, drain ...) are the methods of `actors.rollout_actor`.
"""
