#!/bin/bash
# vm: 6.12; 1700; short
# The same as swap_cycles_test.sh, over ublk.
driver=ublk
# shellcheck source=swap_cycles_test.sh
. "$(dirname "$0")/swap_cycles_test.sh"
