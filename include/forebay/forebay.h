// Everything: include this, link forebay::forebay.
#pragma once

#include "forebay/budget.h"
#include "forebay/builder.h"
#include "forebay/engine.h"
#include "forebay/logger.h"
#include "forebay/plan.h"
#include "forebay/refitter.h"
#include "forebay/status.h"
#include "forebay/types.h"
#include "forebay/version.h"
