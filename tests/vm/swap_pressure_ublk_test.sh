#!/bin/bash
# vm: 6.12; 700; long; memory=1024 donor=1700M
# The same as swap_pressure_test.sh, over ublk.
driver=ublk
# shellcheck source=swap_pressure_test.sh
. "$(dirname "$0")/swap_pressure_test.sh"
