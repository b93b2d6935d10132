#include "tls/authority.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tls/testing/identities.h"

namespace shoal {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr int64_t kDay = 86400;

TEST(Authority, ANodesCertificateNamesItAndItsAddresses) {
  TestAuthority authority;
  const auto made = MakeNodeCertificate(authority.key(),
                                        {.name = "mini2", .addresses = {"10.0.0.2", "::1", "mini2.local"}});
  ASSERT_TRUE(made.ok());
  const auto facts = ReadCertificate(made->certificate, "cert.pem");
  ASSERT_TRUE(facts.ok());
  EXPECT_EQ(facts->subject, "mini2");
  EXPECT_THAT(facts->names, ElementsAre("mini2", kAnyNodeName, "mini2.local", "10.0.0.2", "0:0:0:0:0:0:0:1"));
  EXPECT_TRUE(facts->has_name("MINI2"));
  EXPECT_FALSE(facts->has_name("mini"));
  EXPECT_NEAR(static_cast<double>(facts->ends_s - UnixSeconds()), kNodeDays * kDay, 5.0);
}

TEST(Authority, WhatNoCertificateCanNameIsRefused) {
  TestAuthority authority;
  for (const char* name : {"", "a b", "a,DNS:b", "a:5", "ä", "x\n",
                           "0123456789012345678901234567890123456789012345678901234567890123"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(MakeNodeCertificate(authority.key(), {.name = name}).status()))
        << name;
    EXPECT_EQ(TlsNameOf(name), kAnyNodeName) << name;
  }
  EXPECT_FALSE(MakeNodeCertificate(authority.key(), {.name = "a", .addresses = {"b,IP:1.2.3.4"}}).ok());
  EXPECT_FALSE(MakeNodeCertificate(authority.key(), {.name = "a", .days = 0}).ok());
  EXPECT_FALSE(MakeNodeCertificate({authority.key().certificate, "no key"}, {.name = "a"}).ok());
  const auto other = MakeAuthority();
  EXPECT_THAT(Message(MakeNodeCertificate({authority.key().certificate, other->key}, {.name = "a"}).status()),
              HasSubstr("not that of its certificate"));
}

// Of openssl, good for a century: a key of P-256 with a certificate that has no identifier of it, another that is no
// authority's, and an authority of Ed25519.
constexpr char kOtherKey[] = R"(-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIM/XUpockBq/G4GuLg+UyOrgcPjmAOhp/EHOjEkE/eY2oAoGCCqGSM49
AwEHoUQDQgAEvIS97JH4yYb8X3PXSEG8vd8KIG4CnJkOLVWK+YiTGBiLAbtvRYvR
fdzL8DpNP6zf7K3TAYJ2ORFamgsyR1VcNw==
-----END EC PRIVATE KEY-----
)";
constexpr char kWithoutIdentifier[] = R"(-----BEGIN CERTIFICATE-----
MIIBcDCCARagAwIBAgIUDhY3kNppRZ0WF5lzx2bScoqBIecwCgYIKoZIzj0EAwIw
HDEaMBgGA1UEAwwRYW5vdGhlciBhdXRob3JpdHkwIBcNMjYxMjAxMTY1NzAwWhgP
MjEyNjExMDcxNjU3MDBaMBwxGjAYBgNVBAMMEWFub3RoZXIgYXV0aG9yaXR5MFkw
EwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEvIS97JH4yYb8X3PXSEG8vd8KIG4CnJkO
LVWK+YiTGBiLAbtvRYvRfdzL8DpNP6zf7K3TAYJ2ORFamgsyR1VcN6M0MDIwHwYD
VR0jBBgwFoAUtuHxEk2vtzRvPM8AgX8n9RhYfewwDwYDVR0TAQH/BAUwAwEB/zAK
BggqhkjOPQQDAgNIADBFAiEAmm+CGEQZpgMgXhjXcmRYzpUy8d+Djnd5TnF59JaA
/0kCIDbqlshotUmEqWy94X1qs28Y77IsAtZBTI67TBCHWT11
-----END CERTIFICATE-----
)";
constexpr char kOfNoAuthority[] = R"(-----BEGIN CERTIFICATE-----
MIIBgTCCASigAwIBAgIUeF60APsSJw8D10hUD3ko1qyx1mYwCgYIKoZIzj0EAwIw
FzEVMBMGA1UEAwwMbm8gYXV0aG9yaXR5MCAXDTI2MTIwMTE2NTcwMFoYDzIxMjYx
MTA3MTY1NzAwWjAXMRUwEwYDVQQDDAxubyBhdXRob3JpdHkwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAAS8hL3skfjJhvxfc9dIQby93wogbgKcmQ4tVYr5iJMYGIsB
u29Fi9F93MvwOk0/rN/srdMBgnY5EVqaCzJHVVw3o1AwTjAdBgNVHQ4EFgQUtuHx
Ek2vtzRvPM8AgX8n9RhYfewwHwYDVR0jBBgwFoAUtuHxEk2vtzRvPM8AgX8n9RhY
fewwDAYDVR0TAQH/BAIwADAKBggqhkjOPQQDAgNHADBEAiBuznVD8IAgxnb494Lj
S43dBm+c4ZuYbtiEfScBFAYpywIga17pqRGjH5ZtpMcTsdw6nYpDw4vqR10sO8Ci
YlnTxb8=
-----END CERTIFICATE-----
)";
constexpr char kEd25519Key[] = R"(-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEILe6+4iEt3CGyfC+hqlMjVFv1Bkys9zf7way02FXZwb1
-----END PRIVATE KEY-----
)";
constexpr char kEd25519[] = R"(-----BEGIN CERTIFICATE-----
MIIBTzCCAQGgAwIBAgIUWhcsAnIggDjO53N9DT+MJeZgs/swBQYDK2VwMBwxGjAY
BgNVBAMMEWFub3RoZXIgYXV0aG9yaXR5MCAXDTI2MTIwMTE2NTcwMFoYDzIxMjYx
MTA3MTY1NzAwWjAcMRowGAYDVQQDDBFhbm90aGVyIGF1dGhvcml0eTAqMAUGAytl
cAMhABaG+tBMb3RvgO7/lTKSRYfQkzEFMPVygqUQjijALTSKo1MwUTAdBgNVHQ4E
FgQU480+fW3eZH1L/8hCOaMFVC4RGGswHwYDVR0jBBgwFoAU480+fW3eZH1L/8hC
OaMFVC4RGGswDwYDVR0TAQH/BAUwAwEB/zAFBgMrZXADQQATxATmZqAJGU3t6oUK
w+nihfH7cv0txKHcL++YjIQwW0yJO5pIeYyL6o/28G9Q5C8uzWl+sIKj3ZE0iext
qNMF
-----END CERTIFICATE-----
)";

TEST(Authority, AuthoritiesThatOthersMadeSignNodes) {
  for (const CertifiedKey& authority :
       {CertifiedKey{kWithoutIdentifier, kOtherKey}, {kEd25519, kEd25519Key}}) {
    TestAuthority place;
    const TlsFiles files = place.files_of({.name = "mini2"});
    const auto node = MakeNodeCertificate(authority, {.name = "mini2"});
    ASSERT_TRUE(node.ok()) << Message(node.status());
    std::ofstream(files.authority) << authority.certificate;
    std::ofstream(files.certificate) << node->certificate;
    std::ofstream(files.key) << node->key;
    const auto identity = TlsIdentity::Load(files);
    ASSERT_TRUE(identity.ok()) << Message(identity.status());
    EXPECT_EQ((*identity)->name(), "mini2");
  }
  EXPECT_THAT(Message(MakeNodeCertificate({kOfNoAuthority, kOtherKey}, {.name = "mini2"}).status()),
              AllOf(HasSubstr("'no authority' is not that of an authority"), HasSubstr("isCA: true")));
}

TEST(Authority, ARequestGetsACertificateForTheKeyThatSignedItAndForNothingElse) {
  TestAuthority authority;
  const CertifiedKey request = MakeCertificateRequest("what it calls itself does not count");
  const auto made =
      SignCertificateRequest(authority.key(), request.certificate, {.name = "mini2", .days = 3});
  ASSERT_TRUE(made.ok()) << Message(made.status());
  const auto facts = ReadCertificate(*made, "cert.pem");
  EXPECT_THAT(facts->names, ElementsAre("mini2", kAnyNodeName));
  EXPECT_NEAR(static_cast<double>(facts->ends_s - UnixSeconds()), 3 * kDay, 5.0);
  const TlsFiles files = authority.files_of({.name = "mini2"});
  std::ofstream(files.certificate) << *made;
  EXPECT_THAT(Message(TlsIdentity::Load(files).status()), HasSubstr("is not the key of"));
  std::ofstream(files.key) << request.key;
  EXPECT_TRUE(TlsIdentity::Load(files).ok());

  const auto sign = [&](const std::string& text, const std::string& name = "mini2") {
    return Message(SignCertificateRequest(authority.key(), text, {.name = name}).status());
  };
  EXPECT_THAT(sign("no PEM"), HasSubstr("not PEM"));
  EXPECT_THAT(sign(authority.key().certificate), HasSubstr("not PEM"));
  std::string changed = request.certificate;
  const size_t middle = changed.size() - 60;  // In the signature.
  changed[middle] = changed[middle] == 'A' ? 'B' : 'A';
  EXPECT_THAT(sign(changed), HasSubstr("certificate request"));
  EXPECT_THAT(sign(request.certificate, "a,DNS:b"), HasSubstr("expected a name"));
}

TEST(Authority, DerAndPemAreTheSameCertificate) {
  TestAuthority authority;
  const std::string& pem = authority.key().certificate;
  const auto der = DerOfCertificate(pem, "ca.pem");
  ASSERT_TRUE(der.ok());
  EXPECT_LT(der->size(), pem.size());
  EXPECT_EQ(*PemOfCertificate(*der, "the token"), pem);
  EXPECT_FALSE(PemOfCertificate(der->substr(1), "the token").ok());
  EXPECT_FALSE(PemOfCertificate("", "the token").ok());
}

TEST(Identity, FilesThatAreRenewedAreReadAgainAndWrongOnesAreNot) {
  TestAuthority authority;
  const TlsFiles files = authority.files_of({.name = "a"});
  const auto identity = *TlsIdentity::Load(files);
  const auto replace = [&](const TlsFiles& by) {
    for (const auto& [from, to] :
         {std::pair(by.certificate, files.certificate), std::pair(by.key, files.key)})
      std::filesystem::copy_file(from, to, std::filesystem::copy_options::overwrite_existing);
  };
  const TlsIdentity::Pem before = identity->pem();
  replace(authority.files_of({.name = "a", .days = 5}));
  ASSERT_TRUE(identity->reload().ok());
  EXPECT_NE(identity->pem().certificate, before.certificate);
  EXPECT_NE(identity->pem().reading, before.reading);
  EXPECT_NEAR(static_cast<double>(identity->facts().ends_s - UnixSeconds()), 5 * kDay, 5.0);
  const TlsIdentity::Pem renewed = identity->pem();
  replace(authority.files_of({.name = "b"}));
  EXPECT_THAT(Message(identity->reload()), HasSubstr("is for 'b' now"));
  std::ofstream(files.key) << "no key";
  EXPECT_FALSE(identity->reload().ok());
  EXPECT_EQ(identity->pem().certificate, renewed.certificate);
  EXPECT_EQ(identity->pem().reading, renewed.reading);
}

TEST(Identity, FilesOfOneNodeAreTakenAndWhatIsWrongIsNamed) {
  TestAuthority authority;
  TestAuthority other;
  const TlsFiles files = authority.files_of({.name = "a"});
  const auto load = [](const TlsFiles& of) { return Message(TlsIdentity::Load(of).status()); };
  ASSERT_TRUE(TlsIdentity::Load(files).ok());
  EXPECT_EQ((*TlsIdentity::Load(files))->name(), "a");

  const TlsFiles again = authority.files_of({.name = "a"});
  EXPECT_THAT(load({files.authority, files.certificate, again.key}),
              AllOf(HasSubstr(again.key), HasSubstr("is not the key of")));
  const TlsFiles strange = other.files_of({.name = "a"});
  EXPECT_THAT(load({files.authority, strange.certificate, strange.key}), HasSubstr("is not signed by"));
  EXPECT_THAT(load({files.authority, "/no/such/file", files.key}),
              AllOf(HasSubstr("/no/such/file"), HasSubstr("shoal cert init")));
  EXPECT_THAT(load({files.authority, files.key, files.key}), HasSubstr("expected a certificate"));
  EXPECT_THAT(load({files.authority, files.certificate, files.certificate}),
              HasSubstr("expected a private key"));
  std::filesystem::permissions(files.key, std::filesystem::perms::group_read,
                               std::filesystem::perm_options::add);
  EXPECT_THAT(load(files), HasSubstr("chmod 600"));
}

TEST(Identity, AnEndedCertificateSaysWhenAndWhatToType) {
  TestAuthority authority;
  const TlsFiles files = authority.files_of({.name = "a", .days = 10});
  const int64_t now_s = UnixSeconds();
  EXPECT_TRUE(TlsIdentity::Load(files, now_s + 9 * kDay).ok());
  const absl::Status ended = TlsIdentity::Load(files, now_s + 11 * kDay).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(ended));
  EXPECT_THAT(Message(ended),
              AllOf(HasSubstr("ended on " + DayOf(now_s + 10 * kDay)), HasSubstr("shoal cert node a")));
  EXPECT_THAT(Message(TlsIdentity::Load(files, now_s - 2 * kDay).status()), HasSubstr("clock"));
}

TEST(Identity, ThirtyDaysBeforeTheEndAreWorthAWarning) {
  const CertificateFacts facts{.subject = "a", .ends_s = 100 * kDay};
  EXPECT_EQ(ExpiryWarning(facts, 69 * kDay), "");
  EXPECT_THAT(ExpiryWarning(facts, 70 * kDay),
              AllOf(HasSubstr("'a' ends in 30 days"), HasSubstr("1970-04-11")));
  EXPECT_THAT(ExpiryWarning(facts, 100 * kDay), HasSubstr("ended on 1970-04-11"));
}

TEST(Identity, ANodeThatPlansCallOtherwiseIsRefused) {
  TestAuthority authority;
  const auto node = authority.node("a");
  EXPECT_TRUE(node->check_name("a").ok());
  EXPECT_TRUE(node->check_name("10.0.0.2:50051").ok());  // No name, only an address.
  EXPECT_THAT(Message(node->check_name("b")), AllOf(HasSubstr("'b'"), HasSubstr("--name a")));
}

TEST(PrivateFile, IsItsOwnersAloneAndNeverWrittenOver) {
  TestAuthority authority;
  const TlsFiles files = authority.files_of({.name = "a"});
  using std::filesystem::perms;
  EXPECT_EQ(std::filesystem::status(files.key).permissions(), perms::owner_read | perms::owner_write);
  EXPECT_TRUE(absl::IsAlreadyExists(WritePrivateFile(files.key, "x")));
  EXPECT_TRUE(ReadPrivateFile(files.key).ok());
}

}  // namespace
}  // namespace shoal
