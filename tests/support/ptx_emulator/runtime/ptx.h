// The header of translated PTX.
#pragma once

#include "arithmetic.h"
#include "collectives.h"
#include "copies_in_flight.h"
#include "counters.h"
#include "memory.h"
#include "translated.h"
