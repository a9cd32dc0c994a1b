/* SPDX-License-Identifier: MIT */
#include "smp.h"
void test_main(void) {}
