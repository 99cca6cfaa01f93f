"""What Thornback's figures come from: `python -m benchmarks` lists what can be measured."""
