#include "launch/host_link.h"

#include <sys/stat.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "base/file.h"
#include "base/file_handle.h"
#include "base/status.h"
#include "base/text.h"
#include "launch/shell_quote.h"
#include "launch/subprocess.h"
#include "tls/digest.h"

namespace shoal {
namespace {

constexpr int64_t kBinaryBytesMax = int64_t{4} << 30;
constexpr int64_t kShortMs = 20000;
constexpr std::string_view kHashMark = "@shoal-binary ";
constexpr int kNoBinary = 73;  ///< Exit code of kAskScript; ssh's own is 255.
constexpr int kSshFailed = 255;

// Scripts for the other machine's sh. They are constants: what differs comes as $1 and $2, which nothing evaluates.
constexpr std::string_view kFolder = R"sh(case $1 in "~/"*) d=$HOME/${1#??};; *) d=$1;; esac
h() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -d " " -f 1; }
)sh";
constexpr std::string_view kLookScript = R"sh(umask 077
mkdir -p "$d/bin" || exit 71
if [ -f "$d/bin/shoal" ]; then hash=$(h <"$d/bin/shoal"); else hash=none; fi
echo "@shoal-binary $hash"
)sh";
constexpr std::string_view kCopyScript = R"sh(umask 077
n=$d/bin/shoal.new
cat >"$n" || exit 71
[ "$(h <"$n")" = "$2" ] || { echo "the copy is not what was sent" >&2; rm -f "$n"; exit 72; }
chmod 755 "$n"
)sh";
// One that does not run does not take the place of one that does.
constexpr std::string_view kTakeScript =
    R"sh("$d/bin/shoal.new" --version && mv -f "$d/bin/shoal.new" "$d/bin/shoal"
)sh";
constexpr std::string_view kAskScript = R"sh([ -x "$d/bin/shoal" ] || exit 73
exec "$d/bin/shoal" host-agent
)sh";
constexpr std::string_view kLddScript = R"sh(ldd "$d/bin/shoal.new" 2>&1)sh";

std::string LastLine(std::string_view text) {
  std::vector<std::string> lines = Split(text, '\n');
  while (!lines.empty() && lines.back().find_first_not_of(" \r\t") == std::string::npos) lines.pop_back();
  if (lines.empty()) return "";
  while (!lines.back().empty() && lines.back().back() == '\r') lines.back().pop_back();
  return lines.back();
}

class LocalLink final : public HostLink {
 public:
  explicit LocalLink(HostAgent::Options options) : options_(std::move(options)) {}

  absl::StatusOr<bool> install(const std::string& workdir, const BinaryFile& binary, Deadline) override {
    ASSIGN_OR_RETURN(const std::string folder, HostAgent(options_).path_of(workdir));
    RETURN_IF_ERROR(MakePrivateFolder(folder));
    RETURN_IF_ERROR(MakePrivateFolder(folder + "/bin"));
    const std::string target = folder + "/bin/shoal";
    const auto now = Sha256OfFile(target);
    if (now.ok() && *now == binary.hash) return false;
    const std::string partial = target + ".new";
    std::error_code error;
    std::filesystem::copy_file(binary.path, partial, std::filesystem::copy_options::overwrite_existing,
                               error);
    if (error) return SystemError("copy", binary.path, error.value());
    if (chmod(partial.c_str(), 0755) != 0) return SystemError("change the mode of", partial, errno);
    std::filesystem::rename(partial, target, error);
    if (error) return SystemError("write", target, error.value());
    return true;
  }

  absl::StatusOr<HostReply> ask(const HostOrder& order, Deadline, const EventTaker& take) override {
    HostAgent::Options options = options_;
    options.emit = take;
    options.asker_gone = [] { return false; };
    return HostAgent(std::move(options)).run(order);
  }

 private:
  const HostAgent::Options options_;
};

class SshLink final : public HostLink {
 public:
  explicit SshLink(SshTarget target) : target_(std::move(target)) {}

  absl::StatusOr<bool> install(const std::string& workdir, const BinaryFile& binary,
                               Deadline deadline) override {
    ASSIGN_OR_RETURN(const SubprocessResult look, run(kLookScript, {workdir}, "", soon(deadline)));
    if (look.exit_code != 0) return failed("cannot make the folder " + workdir, look);
    const size_t mark = look.output.rfind(kHashMark);
    if (mark == std::string::npos) return failed("an unexpected answer", look);
    if (LastLine(look.output.substr(mark + kHashMark.size())) == binary.hash) return false;
    ASSIGN_OR_RETURN(const std::string bytes, ReadTextFile(binary.path, kBinaryBytesMax));
    ASSIGN_OR_RETURN(const SubprocessResult copy, run(kCopyScript, {workdir, binary.hash}, bytes, deadline));
    if (copy.exit_code != 0) return failed("cannot copy the binary into " + workdir + "/bin", copy);
    ASSIGN_OR_RETURN(const SubprocessResult version, run(kTakeScript, {workdir}, "", soon(deadline)));
    if (version.exit_code != 0) return why_it_does_not_run(workdir, version);
    return true;
  }

  absl::StatusOr<HostReply> ask(const HostOrder& order, Deadline deadline, const EventTaker& take) override {
    const std::string input = FormatOrder(order) + "\n";
    const std::vector<std::string> argv = SshArguments(target_, command(kAskScript, {order.workdir}));
    absl::StatusOr<HostReply> reply = Unavailable("the shoal there gave no answer");
    const auto on_line = [&](std::string_view line) {
      if (!line.starts_with(kEventMark)) return true;  // What a login shell says.
      const auto event = ParseEvent(line.substr(kEventMark.size()));
      if (!event.ok()) {
        reply = event.status();
        return false;
      }
      if (event->kind != HostEvent::Kind::kReply) {
        take(*event);
        return true;
      }
      reply = event->reply;
      return false;
    };
    ASSIGN_OR_RETURN(
        const SubprocessResult result,
        RunSubprocess(
            {.argv = argv, .input = input, .hold_input = true, .deadline = deadline, .on_line = on_line}));
    if (reply.ok()) return reply;
    if (result.exit_code == kNoBinary)
      return NotFound("no shoal in {}/bin: `shoal up` copies one", order.workdir);
    return failed(Message(reply.status()), result);
  }

 private:
  static Deadline soon(Deadline deadline) { return Deadline::min(deadline, Deadline::after_ms(kShortMs)); }
  static std::string command(std::string_view script, const std::vector<std::string>& arguments) {
    return ShellCommand(std::string(kFolder) + std::string(script), arguments);
  }

  absl::StatusOr<SubprocessResult> run(std::string_view script, const std::vector<std::string>& arguments,
                                       std::string_view input, Deadline deadline) const {
    return RunSubprocess(
        {.argv = SshArguments(target_, command(script, arguments)), .input = input, .deadline = deadline});
  }

  std::string by_hand() const {
    std::string text = "ssh";
    if (target_.keys.port != 0) text += fmt::format(" -p {}", target_.keys.port);
    if (!target_.keys.identity.empty()) text += " -i " + ShellQuote(target_.keys.identity);
    return text + " " + (target_.keys.user.empty() ? "" : target_.keys.user + "@") + target_.keys.host;
  }

  absl::Status failed(const std::string& what, const SubprocessResult& result) const {
    const std::string said = LastLine(result.errors);
    if (result.exit_code == kSshFailed) {
      return Unavailable("ssh could not log in: {}. It must work without a question: try `{}`",
                         said.empty() ? "it does not say why" : said, by_hand());
    }
    return Unavailable("{} (exit code {}): {}", what, result.exit_code,
                       said.empty() ? "nothing more is said" : said);
  }

  absl::Status why_it_does_not_run(const std::string& workdir, const SubprocessResult& result) const;

  const SshTarget target_;
};

/// The Debian package of a library on this machine; "" where that is not known.
std::string PackageOf(const std::string& library) {
  const auto found =
      RunSubprocess({.argv = {"dpkg-query", "-S", "*/" + library}, .deadline = Deadline::after_ms(kShortMs)});
  if (!found.ok() || found->exit_code != 0) return "";
  return found->output.substr(0, found->output.find(':'));  // "libfmt9:amd64: /usr/lib/.../libfmt.so.9"
}

absl::Status SshLink::why_it_does_not_run(const std::string& workdir, const SubprocessResult& result) const {
  if (result.exit_code == kSshFailed) return failed("", result);
  std::vector<std::string> libraries;
  const auto listed = run(kLddScript, {workdir}, "", Deadline::after_ms(kShortMs));
  if (listed.ok()) libraries = MissingLibraries(listed->output);
  if (libraries.empty()) {
    return FailedPrecondition(
        "the binary does not run there: {}. Build shoal on a machine like it, and name that file with the "
        "key "
        "\"binary\" of the device",
        LastLine(result.errors).empty() ? fmt::format("exit code {}", result.exit_code)
                                        : LastLine(result.errors));
  }
  std::vector<std::string> packages;
  for (const std::string& library : libraries) {
    std::string package = PackageOf(library);
    if (!package.empty()) packages.push_back(std::move(package));
  }
  return FailedPrecondition("the binary does not run there: it lacks {}.{}", Join(libraries, ", "),
                            packages.empty()
                                ? std::string(" Install them there")
                                : " On the same Debian or Ubuntu: apt-get install " + Join(packages, " "));
}

}  // namespace

std::unique_ptr<HostLink> MakeLocalLink(HostAgent::Options options) {
  return std::make_unique<LocalLink>(std::move(options));
}

std::unique_ptr<HostLink> MakeSshLink(SshTarget target) {
  return std::make_unique<SshLink>(std::move(target));
}

std::vector<std::string> SshArguments(const SshTarget& target, const std::string& command) {
  std::vector<std::string> argv = {"ssh", "-T"};
  const auto option = [&argv](std::string text) {
    argv.push_back("-o");
    argv.push_back(std::move(text));
  };
  for (const std::string& more : target.more_options) option(more);  // The first of two counts.
  option("BatchMode=yes");
  option("ConnectTimeout=8");
  option("ServerAliveInterval=5");
  option("ServerAliveCountMax=3");
  const auto percent = [](const std::string& path) {  // ssh expands %h and the like.
    std::string text;
    for (const char c : path) text += c == '%' ? std::string("%%") : std::string(1, c);
    return text;
  };
  const SshKeys& keys = target.keys;
  if (!keys.known_hosts.empty()) option("UserKnownHostsFile=\"" + percent(keys.known_hosts) + "\"");
  if (!keys.identity.empty()) {
    option("IdentityFile=\"" + percent(keys.identity) + "\"");
    option("IdentitiesOnly=yes");
  }
  if (keys.port != 0) argv.insert(argv.end(), {"-p", std::to_string(keys.port)});
  if (!keys.user.empty()) argv.insert(argv.end(), {"-l", keys.user});
  argv.insert(argv.end(), {"--", keys.host, command});
  return argv;
}

std::vector<std::string> MissingLibraries(std::string_view ldd_output) {
  std::vector<std::string> names;
  for (const std::string& line : Split(ldd_output, '\n')) {
    const size_t arrow = line.find(" => not found");
    if (arrow == std::string::npos) continue;
    const size_t begin = line.find_first_not_of(" \t");
    names.push_back(line.substr(begin, arrow - begin));
  }
  return names;
}

}  // namespace shoal
