// cpu/affinity.h on macOS.
#include <pthread/qos.h>

#include "cpu/affinity.h"

namespace shoal {

bool StayOnCpu(int) { return false; }

// Of this class, threads stay on P cores while these are free; of the class of a server's threads they need not.
void PreferFastCores() { (void)pthread_set_qos_class_self_np(QOS_CLASS_USER_INTERACTIVE, 0); }

}  // namespace shoal
