// `farpool bench swap`: farpool's swap devices as block devices, beside what else brings memory of elsewhere
// under a block device: nbdkit's memory plugin behind the kernel's NBD client, and a RAM disk behind the
// kernel's NVMe over TCP. All at this host; fio is the load, and verifies what it filled each device with.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "bench/benches.h"
#include "bench/setup.h"

namespace bench {

namespace {

constexpr unsigned kSetupSeconds = 60;

// In all scripts: $1 bytes of the device, $2 a folder, $3 farpool, $4 the pool. They print the device's path;
// status 127 says that something is not there.
constexpr char kNeedUblk[] = "[ -e /dev/ublk-control ] || modprobe -q ublk_drv || exit 127\n";
constexpr char kNeedNbd[] = "[ -e /sys/block/nbd0 ] || modprobe -q nbd || exit 127\n";

constexpr char kNbdkitUp[] = R"sh(
command -v nbdkit >/dev/null && command -v nbd-client >/dev/null || exit 127
nbdkit -U "$2/nbdkit.sock" -P "$2/nbdkit.pid" memory "$1" || exit
for device in /sys/block/nbd*; do
  [ ! -e "$device/pid" ] && [ "$(cat "$device/size")" = 0 ] || continue
  device=/dev/${device##*/}
  nbd-client -unix "$2/nbdkit.sock" "$device" -b 4096 -C "$5" >"$2/nbd-client.log" 2>&1 || exit
  echo "$device"
  exit
done
exit 127
)sh";
constexpr char kNbdkitDown[] = R"sh([ -z "$0" ] || nbd-client -d "$0"; kill "$(cat "$2/nbdkit.pid")")sh";

constexpr char kNvmeUp[] = R"sh(
name=farpool-bench
for module in nvmet nvmet-tcp nvme-tcp; do modprobe -q "$module" || exit 127; done
modprobe -q brd rd_nr=1 rd_size=$(($1 / 1024)) || exit 127
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config || exit 127
cd /sys/kernel/config/nvmet && mkdir "subsystems/$name" "subsystems/$name/namespaces/1" "ports/$6" || exit
echo 1 >"subsystems/$name/attr_allow_any_host"
echo -n /dev/ram0 >"subsystems/$name/namespaces/1/device_path"
echo 1 >"subsystems/$name/namespaces/1/enable"
echo tcp >"ports/$6/addr_trtype"
echo ipv4 >"ports/$6/addr_adrfam"
echo 127.0.0.1 >"ports/$6/addr_traddr"
echo "$6" >"ports/$6/addr_trsvcid"
ln -s "$PWD/subsystems/$name" "ports/$6/subsystems/$name" || exit
echo "nqn=$name,transport=tcp,traddr=127.0.0.1,trsvcid=$6" >/dev/nvme-fabrics || exit
for i in 1 2 3 4 5 6 7 8 9 10; do
  for device in /sys/block/nvme*n1; do
    [ "$(cat "$device/device/subsysnqn" 2>/dev/null)" = "$name" ] && [ -b "/dev/${device##*/}" ] || continue
    echo "/dev/${device##*/}"
    exit
  done
  sleep 1
done
exit 1
)sh";
constexpr char kNvmeDown[] = R"sh(
name=farpool-bench
for controller in /sys/class/nvme/nvme*; do
  [ "$(cat "$controller/subsysnqn" 2>/dev/null)" = "$name" ] && echo 1 >"$controller/delete_controller"
done
cd /sys/kernel/config/nvmet && rm -f "ports/$6/subsystems/$name" && rmdir "ports/$6" "subsystems/$name/namespaces/1" "subsystems/$name"
modprobe -q -r brd
)sh";

// A device that a script makes and another one ends.
class Device {
 public:
  // kNotFound: this machine does not have what is needed.
  static Result<std::unique_ptr<Device>> Make(const std::string& up, const std::string& down,
                                              const std::vector<std::string>& arguments) {
    std::unique_ptr<Device> device(new Device(down, arguments));
    const auto made = RunToEnd({.argv = device->Argv(up), .seconds_max = kSetupSeconds});
    if (made.ok()) device->path_ = made.value().output.substr(0, made.value().output.find('\n'));
    if (!made.ok()) {
      // There was nothing yet that could be ended.
      if (made.status().code() == Status::Code::kNotFound) device->down_.clear();
      return made.status();
    }
    return device;
  }
  ~Device() {
    if (!down_.empty()) (void)RunToEnd({.argv = Argv(down_), .seconds_max = kSetupSeconds, .always = true});
  }
  Device(const Device&) = delete;
  const std::string& path() const { return path_; }

 private:
  Device(std::string down, std::vector<std::string> arguments)
      : down_(std::move(down)), arguments_(std::move(arguments)) {}
  std::vector<std::string> Argv(const std::string& script) const {
    std::vector<std::string> argv = {"sh", "-c", script, path_};
    argv.insert(argv.end(), arguments_.begin(), arguments_.end());
    return argv;
  }
  std::string down_;
  std::vector<std::string> arguments_;
  std::string path_;
};

struct Plan {
  unsigned runs;
  uint64_t bytes;
  unsigned seconds;
};

class SwapBench {
 public:
  SwapBench(const Options& options, Results* results)
      : plan_(options.smoke   ? Plan{1, 16u << 20, 1}
              : options.quick ? Plan{1, 64u << 20, 4}
                              : Plan{3, 256u << 20, 10}),
        results_(results) {}

  Status Run() {
    if (const Status s = setup_.Init(); !s.ok()) return s;
    if (geteuid() != 0) {
      results_->Skip("swap", "needs root");
      return Status::Ok();
    }
    // Twice: a page that is written again goes to another slot first.
    auto shm = setup_.StartDonor({"--unix", setup_.folder() + "/donor.sock", "--slab", "16M"},
                                 2 * plan_.bytes + kSpare);
    if (!shm.ok()) return shm.status();
    auto tcp =
        setup_.StartDonor({"--listen", "tcp://127.0.0.1:0", "--slab", "16M"}, 2 * plan_.bytes + kSpare);
    if (!tcp.ok()) return tcp.status();
    const std::string create_ublk = kNeedUblk + Create("ublk"), create_nbd = kNeedNbd + Create("nbd");
    for (unsigned run = 0; run < plan_.runs; ++run) {
      const std::string &near = shm.value()->endpoint(), &far = tcp.value()->endpoint();
      for (const auto& [config, up, down, pool] :
           {std::tuple{"ublk-shm", create_ublk, std::string(kDelete), near},
            {"ublk-tcp", create_ublk, kDelete, far},
            {"nbd-shm", create_nbd, kDelete, near},
            {"nbd-tcp", create_nbd, kDelete, far},
            {"nbdkit", std::string(kNeedNbd) + kNbdkitUp, kNbdkitDown, near},
            {"nvme-tcp", kNvmeUp, kNvmeDown, near}}) {
        const Status s = Measure(config, up, down, pool, run);
        if (s.code() == Status::Code::kNotFound) {
          if (run == 0)
            results_->Skip(config, "the kernel's module or a program is not there (nbdkit, nbd-client, fio)");
        } else if (!s.ok()) {
          return Status(s.code(), fmt::format("{}: {}", config, s.text()).c_str());
        }
      }
    }
    return Status::Ok();
  }

 private:
  static constexpr uint64_t kSpare = 128u << 20;
  static constexpr char kDelete[] = R"sh([ -z "$0" ] || "$3" swap delete "$0")sh";
  static std::string Create(const std::string& driver) {
    return R"sh(exec "$3" swap create --driver )sh" + driver + R"sh( --size "$1" --pool "$4")sh";
  }

  Status Measure(const std::string& config, const std::string& up, const std::string& down,
                 const std::string& pool, unsigned run) {
    const auto queues = std::clamp(sysconf(_SC_NPROCESSORS_ONLN), 2L, 8L);  // As many as farpool's.
    const auto device = Device::Make(up, down,
                                     {std::to_string(plan_.bytes), setup_.folder(), setup_.farpool(), pool,
                                      std::to_string(queues), std::to_string(kNvmePort)});
    if (!device.ok()) return device.status();
    const std::vector<std::string> fio = {"fio",
                                          "--name=bench",
                                          "--filename=" + device.value()->path(),
                                          "--size=" + std::to_string(plan_.bytes),
                                          "--direct=1",
                                          "--ioengine=libaio",
                                          "--output-format=json",
                                          "--clat_percentiles=0",
                                          "--lat_percentiles=1",
                                          "--percentile_list=50:99"};
    std::vector<std::string> fill = fio;
    fill.insert(fill.end(), {"--rw=write", "--bs=64k", "--iodepth=4", "--verify=crc32c", "--do_verify=1"});
    if (const auto s = RunToEnd({.argv = fill, .seconds_max = kFioSeconds}).status(); !s.ok()) return s;
    for (const std::string rw : {"randread", "randwrite"})
      for (const unsigned depth : {1u, 32u}) {
        std::vector<std::string> argv = fio;
        argv.insert(argv.end(),
                    {"--rw=" + rw, "--bs=4k", fmt::format("--iodepth={}", depth), "--time_based",
                     fmt::format("--runtime={}", plan_.seconds), "--ramp_time=1", "--norandommap"});
        const auto outcome = RunToEnd({.argv = argv, .seconds_max = kFioSeconds});
        if (!outcome.ok()) return outcome.status();
        if (const Status s =
                Take(config, fmt::format("{}@{}", rw, depth), rw.substr(4), outcome.value().output);
            !s.ok())
          return s;
      }
    fmt::print(stderr, "bench swap run {}/{}: {}\n", run + 1, plan_.runs, config);
    return Status::Ok();
  }

  Status Take(const std::string& config, const std::string& what, const std::string& direction,
              const std::string& output) {
    const auto json = nlohmann::json::parse(output, nullptr, false);
    const nlohmann::json none;
    const auto& job = json.is_object() && json.contains("jobs") ? json["jobs"][0][direction] : none;
    if (!job.is_object() || !job.contains("iops") || !job["lat_ns"].contains("percentile"))
      return Status::Corrupt("fio printed no result");
    // From submission on: some drivers do all of it there.
    const auto& quantiles = job["lat_ns"]["percentile"];
    results_->Add(config, what, "rate", "IOPS", job["iops"].get<double>());
    results_->Add(config, what, "p50", "us", quantiles["50.000000"].get<double>() / 1000);
    results_->Add(config, what, "p99", "us", quantiles["99.000000"].get<double>() / 1000);
    return Status::Ok();
  }

  static constexpr unsigned kFioSeconds = 300;
  static constexpr unsigned kNvmePort = 4420;  // The protocol's own.

  const Plan plan_;
  Results* results_;
  Setup setup_;
};

}  // namespace

Status RunSwap(const Options& options, Results* results) { return SwapBench(options, results).Run(); }

}  // namespace bench
