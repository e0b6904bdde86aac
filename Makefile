# The two commands: `make demo` shows the suite at work, `make test` runs every test. Both set everything up first.
# Arguments go through ARGS, for example: make test ARGS="test/runtime -k executor"
.PHONY: demo test lint setup clean

demo: setup
	@tools/run streaming-vla demo $(ARGS)

test: setup
	@tools/test $(ARGS)

lint: setup
	@tools/run ruff check .
	@tools/run ruff format --check .
	@tools/run mypy

setup:
	@tools/setup

clean:
	rm -rf .venv build install log out .pytest_cache .mypy_cache .ruff_cache .hypothesis
