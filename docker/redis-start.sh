#!/bin/sh
# Redis with a user for each role, as the embedded one has them (sep_stream/runtime/embedded/redis.py), and no other.
set -eu
umask 077

secrets=${SECRETS:-/run/secrets}
data=${DATA:-/data}
common='-@all +hello +auth +ping +quit +select +client|setname +get +hget +hmget +hgetall +exists +pttl +multi +exec +discard +time'

cat > "$data/users.acl" <<USERS
user default off
user admin on >$(cat "$secrets/redis_admin") ~* &* +@all
user cache on >$(cat "$secrets/redis_cache") ~cache:* &cache:* $common +info +eval +evalsha +script|load +set +hset +unlink +rename +persist +pexpire +pexpireat +publish
user read on >$(cat "$secrets/redis_read") %R~cache:* &cache:* $common +subscribe +unsubscribe +client|tracking
USERS

# The image's entry point gives the data to the user that the server runs as.
cd "$data"
exec docker-entrypoint.sh redis-server --dir "$data" --aclfile "$data/users.acl" --save '' --appendonly yes \
    --appendfsync everysec --maxmemory-policy noeviction "$@"
