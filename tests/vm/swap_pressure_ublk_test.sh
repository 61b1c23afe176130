#!/bin/bash
# vm: 6.12; 900; long; memory=768 donor=1300M
# The same as swap_pressure_test.sh, over ublk.
driver=ublk
# shellcheck source=swap_pressure_test.sh
. "$(dirname "$0")/swap_pressure_test.sh"
