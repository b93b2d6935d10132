// Internal to tls/: the facts of OpenSSL's certificate.
#pragma once

#include "tls/certificate.h"
#include "tls/openssl.h"

namespace shoal {

CertificateFacts FactsOf(const X509* certificate);

}  // namespace shoal
