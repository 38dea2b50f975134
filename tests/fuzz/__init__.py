"""The Avro decoder against whatever bytes may come.

`python -m tests.fuzz.bounds` and `python -m tests.fuzz.plain` run the seeded strings in builds of their own,
`python -m tests.fuzz.guided` looks for new ones with a coverage-guided fuzzer.
"""
