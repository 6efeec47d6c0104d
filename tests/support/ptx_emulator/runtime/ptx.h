// What translated PTX includes.
#pragma once

#include "arithmetic.h"
#include "collectives.h"
#include "counters.h"
#include "memory.h"
#include "translated.h"
