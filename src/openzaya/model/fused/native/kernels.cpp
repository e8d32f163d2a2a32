// Forward and backward of what surrounds the matrix products of a layer, in fp32, one thread a call.
//
// Every function takes contiguous rows and adds in an order that depends on their number alone, so
// a step gives the same bits whatever else the machine does. A pointer is null where a tensor is None.
#include "attention.h"
#include "cca.h"
#include "experts.h"
#include "loss.h"
#include "rows.h"
