"""`published.py` that scales by Ray Serve's default policy.

    python autoscaled.py PORT

Bounds, target and delays are those of the cluster beside it (`configs/scaling.yaml` and what is
built in), so that what differs is the policy and what it is told.
"""

import sys

import published

if __name__ == "__main__":
    published.run(
        int(sys.argv[1]),
        max_ongoing_requests=64,
        ray_actor_options={"num_cpus": 0.1},  # with Serve's 1 only two fit on two cores
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": 4,
            "target_ongoing_requests": 8,
            "metrics_interval_s": 1,
            "look_back_period_s": 4,
            "upscale_delay_s": 1,
            "downscale_delay_s": 30,
        },
    )
