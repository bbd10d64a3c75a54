.DEFAULT_GOAL := help
.PHONY: help services services-down run test cluster-test schemathesis openapi chaos mutants model bench bench-quick big-send recovery lint

help: ## Print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  %-14s %s\n' "$$name" "$$text"; done

services: ## Start Postgres and RabbitMQ (or use DATABASE_URL and AMQP_URL), write .local/services.env
	@scripts/services up

services-down: ## Stop the Postgres and RabbitMQ that were started here
	@scripts/services down

run: ## Build, start everything, send one sample allocation, serve until Ctrl-C
	@scripts/run --build

test: ## Run the tests with servers of their own; ARGS="..." goes to cargo test
	@scripts/test $(ARGS)

cluster-test: ## Let three nodes of RabbitMQ die, hang and lose each other under load (ten minutes, plus the build)
	@scripts/test --test it -- --include-ignored cluster:: --nocapture --test-threads=1

openapi: ## Write docs/openapi.json anew
	@cargo run --quiet -- openapi > docs/openapi.json.new && mv docs/openapi.json.new docs/openapi.json

schemathesis: ## Try the OpenAPI document against the real service (installs schemathesis into .local/)
	@scripts/schemathesis $(ARGS)

chaos: ## Faults of every kind, from a seed: TIME=20m SEED=1 (default: 20m, a new seed)
	@EARMARK_CHAOS_TIME=$(or $(TIME),20m) $(if $(SEED),EARMARK_CHAOS_SEED=$(SEED)) scripts/test --test it -- --ignored --exact faults::campaign::chaos --nocapture

big-send: ## Send 10,000 lines while everything is killed, take back and settle from files, and send a million lines within a minute (five minutes, plus the build)
	@scripts/test --release --test it -- --ignored send:: --nocapture --test-threads=1

recovery: ## Kill two workers over 100,000 requests, and hand a million to one (two minutes, plus the build)
	@scripts/test --release --test it -- --ignored recovery:: --nocapture --test-threads=1

mutants: ## Break the protocol on purpose, and see that the fault harness notices
	@scripts/mutants

model: ## Look at every state of the protocol's model, in larger bounds than the tests (minutes, and gigabytes of memory)
	@cargo test --test model -- --ignored --nocapture --test-threads=1 larger::

bench: ## Measure side by side, on private servers (about a quarter of an hour, plus the build)
	@scripts/bench

bench-quick: ## The same in three minutes, without growth
	@scripts/bench --quick

lint: ## Check formatting, scripts, clippy, documentation, SQL queries and dependencies, and that the mutants apply
	@scripts/lint --install
