#!/bin/sh
# The API without any library: which strategies there are, what one would cost, and an answer of it.
set -eu
url=${OUTTHINK_URL:-http://127.0.0.1:8000}
url=${url%/v1}/v1
key=${OUTTHINK_API_KEY:-none}

post() {
    curl --silent --show-error --fail-with-body "$url/chat/completions" \
        -H "Authorization: Bearer $key" -H 'Content-Type: application/json' -d "$1"
    echo
}

curl --silent --show-error --fail "$url/strategies" -H "Authorization: Bearer $key"
echo

post '{"model": "smollm2", "messages": [{"role": "user", "content": "What is 17 + 25?"}], "max_tokens": 60,
       "strategy": {"type": "self_consistency", "samples": 8}, "dry_run": true}'

post '{"model": "smollm2", "messages": [{"role": "user", "content": "What is 17 + 25?"}], "max_tokens": 60,
       "strategy": {"type": "self_consistency", "samples": 8}, "budget": {"tokens": 400}}'
