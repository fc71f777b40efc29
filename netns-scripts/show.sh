#!/usr/bin/env bash
# Shows what weft has built on this host: networks, attachments, and what the kernel has of them.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
PATH=$here/../target/stage/bin:$PATH
command -v weft >/dev/null || { echo "weft is not built yet: cargo xtask stage" >&2; exit 1; }

section() { printf '\n# %s\n' "$*"; }

section networks
weft network ls
section attachments
weft ps
section bridges
ip -brief link show type bridge
section ports
bridge link
for netns in $(ip netns list | cut -d' ' -f1); do
  section "inside $netns"
  ip -n "$netns" -brief address
  ip -n "$netns" route
done
section firewall
nft list ruleset
