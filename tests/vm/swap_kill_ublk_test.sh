#!/bin/bash
# vm: 6.12; 400; short
# The same as swap_kill_test.sh, over ublk.
driver=ublk
# shellcheck source=swap_kill_test.sh
. "$(dirname "$0")/swap_kill_test.sh"
