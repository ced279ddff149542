/* Which tables of operations this processor can run. */
#pragma once
#include "ops.h"

/* The table of this name; NULL: the best one. Returns NULL where there is none of that name, or the processor lacks it. */
const Ops *ops_named(const char *name);
