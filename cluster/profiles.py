"""`profile`: presets of settings that exist, named by what they are good at.

A preset is a layer between what is built in and what the file says: under `defaults` for every
pool, and for the gateway. Whatever the file writes wins, key by key. What each preset is measured
to win is in docs/operator.md; one that won nothing would not be here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

ProfileName = Literal["latency", "balanced", "throughput"]


class Profile(NamedTuple):
    """What a preset sets; what it does not name is as it is built in."""

    defaults: Mapping[str, Any] = MappingProxyType({})
    """Options of pools, as they stand under `defaults`."""
    gateway: Mapping[str, Any] = MappingProxyType({})
    """Keys of `gateway`."""


PROFILES: Mapping[ProfileName, Profile] = MappingProxyType(
    {
        "latency": Profile(
            defaults={
                "autoscaling_config": {
                    "min_replicas": 1,  # no call waits for a first replica
                    "target_ongoing_requests": 4,
                    "upscale_delay_s": 0,
                }
            },
        ),
        "balanced": Profile(),
        "throughput": Profile(
            # Few replicas with many calls each: the more travel in a message, the less each costs.
            defaults={
                "max_ongoing_requests": 256,
                "autoscaling_config": {"target_ongoing_requests": 128},
            },
            gateway={"num_replicas": 2, "gather_s": 0.001},
        ),
    }
)
