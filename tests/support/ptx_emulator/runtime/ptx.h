// The header of translated PTX.
#pragma once

#include "arithmetic.h"
#include "async_copies.h"
#include "collectives.h"
#include "counters.h"
#include "memory.h"
#include "translated.h"
