/* libnvidia-ml.so.1: cards that say what the script has them say.
 *
 *   cards=<n>                    up to 16
 *   driver=<text>                what the driver's version is
 *   nvml.fails=<function>:<code> that function returns that code for every card
 *   mismatch=1                   every function says NVML_ERROR_LIB_RM_VERSION_MISMATCH
 *   peers etc.                   see cuda.c
 *   <i>.name  <i>.uuid (GPU-...) <i>.pci (0000:01:00.0)  <i>.memory  <i>.used (bytes)
 *   <i>.temp <i>.memtemp <i>.power_mw <i>.limit_mw <i>.energy_mj <i>.util <i>.memutil <i>.clock <i>.memclock
 *   <i>.throttle (bits) <i>.replays <i>.processes=<pid>:<bytes>,...
 *   <i>.ecc_corrected <i>.ecc_uncorrected     absent: not supported
 *   <i>.lost=1                   NVML_ERROR_GPU_IS_LOST; lost=2: the handle is refused as well
 *   <i>.xid=<number> <i>.xid_count=<n>        told once for every step of the count, 1 where there is none
 *   <i>.hang=<function> <i>.crash=<function>  as script.h says
 *   <i>.garbage=control|endless|high          how its strings come
 *   <i>.unsupported=<function>,<function>     NVML_ERROR_NOT_SUPPORTED; also without <i>. for all
 *   <i>.mig=<n>                  slices: <i>.mig.<k>.uuid .memory .used .instance .profile (1g.10gb)
 */
#define CARDS_MAX 16
#define SLICES_MAX 7
#define SUCCESS 0
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define NOT_FOUND 6
#define INSUFFICIENT_SIZE 7
#define TIMEOUT 10
#define GPU_IS_LOST 15
#define VERSION_MISMATCH 18

/* A handle is the address of a card's or a slice's place here. */
static struct place { unsigned card; int slice; } places[CARDS_MAX][SLICES_MAX + 1];
typedef struct place *device_t;

__attribute__((constructor)) static void number_places(void) {
    for (unsigned card = 0; card < CARDS_MAX; card++)
        for (int slice = 0; slice <= SLICES_MAX; slice++)
            places[card][slice] = (struct place){card, slice - 1};
}

static int listed(const char *list, const char *function) {
    size_t length = strlen(function);
    for (const char *at = list; (at = strstr(at, function)) != NULL; at += length)
        if ((at == list || at[-1] == ',') && (at[length] == 0 || at[length] == ',')) return 1;
    return 0;
}

/* What every function begins with: hangs and crashes, then the reasons to refuse. */
static unsigned enter(const char *function, device_t device) {
    char value[512], key[96];
    script_enter(function);
    if (script_number("mismatch", 0) != 0) return VERSION_MISMATCH;
    if (script_text_of("nvml.fails", value, sizeof value)) {
        char *colon = strchr(value, ':');
        if (colon != NULL) {
            *colon = 0;
            if (strcmp(value, function) == 0) return (unsigned)strtoul(colon + 1, NULL, 10);
        }
    }
    if (script_text_of("unsupported", value, sizeof value) && listed(value, function)) return NOT_SUPPORTED;
    if (device == NULL) return SUCCESS;
    if (device < &places[0][0] || device > &places[CARDS_MAX - 1][SLICES_MAX]) return INVALID_ARGUMENT;
    script_enter_card(device->card, function);
    if (script_card_number(device->card, "lost", 0) != 0) return GPU_IS_LOST;
    snprintf(key, sizeof key, "unsupported");
    if (script_card_text(device->card, key, value, sizeof value) && listed(value, function)) return NOT_SUPPORTED;
    return SUCCESS;
}

#define ENTER(device) do { unsigned code = enter(__func__, device); if (code != SUCCESS) return code; } while (0)

/* A number of a card's or a slice's. */
static double number(device_t device, const char *key, double otherwise) {
    char name[96];
    if (device->slice < 0) return script_card_number(device->card, key, otherwise);
    snprintf(name, sizeof name, "mig.%d.%s", device->slice, key);
    return script_card_number(device->card, name, otherwise);
}

static unsigned optional(device_t device, const char *key, unsigned *value) {
    double scripted = number(device, key, -1e18);
    if (scripted == -1e18) return NOT_SUPPORTED;
    *value = scripted < 0 ? (unsigned)(int)scripted : (unsigned)scripted;
    return SUCCESS;
}

/* Sensors are a card's; a slice has none. */
static unsigned sensor(device_t device, const char *key, double otherwise, unsigned *value) {
    if (device->slice >= 0) return NOT_SUPPORTED;
    double scripted = script_card_number(device->card, key, otherwise);
    *value = scripted < 0 ? (unsigned)(int)scripted : (unsigned)scripted;
    return SUCCESS;
}

static unsigned give_text(unsigned card, const char *text, char *buffer, unsigned room) {
    char kind[32];
    if (script_card_text(card, "garbage", kind, sizeof kind)) {
        if (strcmp(kind, "endless") == 0) { memset(buffer, 'A', room); return SUCCESS; }
        const char *garbage = strcmp(kind, "high") == 0 ? "\xff\xfe\xfd card" : "\x1b[2J\nname=\r\x07 card";
        snprintf(buffer, room, "%s", garbage);
        return SUCCESS;
    }
    if (strlen(text) >= room) return INSUFFICIENT_SIZE;
    strcpy(buffer, text);
    return SUCCESS;
}

unsigned nvmlInit_v2(void) { ENTER(NULL); return SUCCESS; }
unsigned nvmlInitWithFlags(unsigned flags) { (void)flags; ENTER(NULL); return SUCCESS; }
unsigned nvmlShutdown(void) { script_enter(__func__); return SUCCESS; }

unsigned nvmlSystemGetDriverVersion(char *buffer, unsigned room) {
    ENTER(NULL);
    char text[80];
    if (!script_text_of("driver", text, sizeof text)) strcpy(text, "550.54.15");
    if (strlen(text) >= room) return INSUFFICIENT_SIZE;
    strcpy(buffer, text);
    return SUCCESS;
}

unsigned nvmlDeviceGetCount_v2(unsigned *count) {
    ENTER(NULL);
    double cards = script_number("cards", 1);
    *count = cards > CARDS_MAX ? CARDS_MAX : (unsigned)cards;
    return SUCCESS;
}

unsigned nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t *device) {
    ENTER(NULL);
    if (index >= script_number("cards", 1)) return INVALID_ARGUMENT;
    script_enter_card(index, __func__);
    if (script_card_number(index, "lost", 0) == 2) return GPU_IS_LOST;
    *device = &places[index][0];
    return SUCCESS;
}

static void address_of(unsigned card, char *text, size_t room) {
    if (!script_card_text(card, "pci", text, room)) snprintf(text, room, "0000:%02x:00.0", card + 1);
}

unsigned nvmlDeviceGetHandleByPciBusId_v2(const char *address, device_t *device) {
    ENTER(NULL);
    for (unsigned card = 0; card < script_number("cards", 1) && card < CARDS_MAX; card++) {
        char text[32];
        address_of(card, text, sizeof text);
        if (strcasecmp(text, address) != 0) continue;
        script_enter_card(card, __func__);
        if (script_card_number(card, "lost", 0) == 2) return GPU_IS_LOST;
        *device = &places[card][0];
        return SUCCESS;
    }
    return NOT_FOUND;
}

unsigned nvmlDeviceGetName(device_t device, char *buffer, unsigned room) {
    ENTER(device);
    char name[128], profile[32], key[64];
    if (!script_card_text(device->card, "name", name, sizeof name)) strcpy(name, "NVIDIA H100 80GB HBM3");
    if (device->slice >= 0) {
        snprintf(key, sizeof key, "mig.%d.profile", device->slice);
        if (!script_card_text(device->card, key, profile, sizeof profile)) strcpy(profile, "1g.10gb");
        snprintf(name + strlen(name), sizeof name - strlen(name), " MIG %s", profile);
    }
    return give_text(device->card, name, buffer, room);
}

unsigned nvmlDeviceGetUUID(device_t device, char *buffer, unsigned room) {
    ENTER(device);
    char uuid[96], key[64];
    if (device->slice < 0) {
        if (!script_card_text(device->card, "uuid", uuid, sizeof uuid))
            snprintf(uuid, sizeof uuid, "GPU-00000000-0000-0000-0000-0000000000%02x", device->card + 1);
    } else {
        snprintf(key, sizeof key, "mig.%d.uuid", device->slice);
        if (!script_card_text(device->card, key, uuid, sizeof uuid))
            snprintf(uuid, sizeof uuid, "MIG-00000000-0000-0000-00%02x-0000000000%02x", device->slice + 1,
                     device->card + 1);
    }
    return give_text(device->card, uuid, buffer, room);
}

struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char address[32]; };

unsigned nvmlDeviceGetPciInfo_v3(device_t device, struct pci *pci) {
    ENTER(device);
    char text[32];
    address_of(device->card, text, sizeof text);
    memset(pci, 0, sizeof *pci);
    char kind[32];
    if (script_card_text(device->card, "garbage", kind, sizeof kind)) {
        memset(pci->address, strcmp(kind, "high") == 0 ? 0xff : 'A', sizeof pci->address);
        return SUCCESS;
    }
    snprintf(pci->address, sizeof pci->address, "0000%.27s", text);
    return SUCCESS;
}

struct memory { unsigned long long total, free, used; };
struct memory_v2 { unsigned version; unsigned long long total, reserved, free, used; };

static void memory_of(device_t device, struct memory *memory) {
    memory->total = (unsigned long long)number(device, "memory", 80.0 * (1 << 30));
    memory->used = (unsigned long long)number(device, "used", 0);
    memory->free = memory->total - memory->used;
}

unsigned nvmlDeviceGetMemoryInfo(device_t device, struct memory *memory) {
    ENTER(device);
    memory_of(device, memory);
    return SUCCESS;
}

unsigned nvmlDeviceGetMemoryInfo_v2(device_t device, struct memory_v2 *memory) {
    ENTER(device);
    struct memory plain;
    if (memory->version != (sizeof *memory | 2u << 24)) return 25; /* ARGUMENT_VERSION_MISMATCH */
    memory_of(device, &plain);
    *memory = (struct memory_v2){memory->version, plain.total, 0, plain.free, plain.used};
    return SUCCESS;
}

struct rates { unsigned gpu, memory; };

unsigned nvmlDeviceGetUtilizationRates(device_t device, struct rates *rates) {
    ENTER(device);
    unsigned code = sensor(device, "util", 0, &rates->gpu);
    return code != SUCCESS ? code : sensor(device, "memutil", 0, &rates->memory);
}

unsigned nvmlDeviceGetTemperature(device_t device, unsigned sensor_type, unsigned *temperature) {
    ENTER(device);
    return sensor_type != 0 ? INVALID_ARGUMENT : sensor(device, "temp", 41, temperature);
}

struct field { unsigned id, scope; long long timestamp, latency; unsigned type, code; union { unsigned whole; double d; } value; };

unsigned nvmlDeviceGetFieldValues(device_t device, int count, struct field *fields) {
    ENTER(device);
    for (int i = 0; i < count; i++) {
        fields[i].type = 1;
        fields[i].code = fields[i].id == 82 ? optional(device, "memtemp", &fields[i].value.whole) : NOT_SUPPORTED;
    }
    return SUCCESS;
}

unsigned nvmlDeviceGetPowerUsage(device_t device, unsigned *milliwatts) {
    ENTER(device);
    return sensor(device, "power_mw", 70000, milliwatts);
}

unsigned nvmlDeviceGetEnforcedPowerLimit(device_t device, unsigned *milliwatts) {
    ENTER(device);
    return sensor(device, "limit_mw", 700000, milliwatts);
}

unsigned nvmlDeviceGetTotalEnergyConsumption(device_t device, unsigned long long *millijoules) {
    ENTER(device);
    if (device->slice >= 0) return NOT_SUPPORTED;
    *millijoules = (unsigned long long)script_card_number(device->card, "energy_mj", 1000000);
    return SUCCESS;
}

unsigned nvmlDeviceGetClockInfo(device_t device, unsigned type, unsigned *megahertz) {
    ENTER(device);
    return sensor(device, type == 2 ? "memclock" : "clock", type == 2 ? 2619 : 1980, megahertz);
}

unsigned nvmlDeviceGetMaxClockInfo(device_t device, unsigned type, unsigned *megahertz) {
    ENTER(device);
    return sensor(device, type == 2 ? "max_memclock" : "max_clock", type == 2 ? 2619 : 1980, megahertz);
}

unsigned nvmlDeviceGetCurrentClocksThrottleReasons(device_t device, unsigned long long *bits) {
    ENTER(device);
    if (device->slice >= 0) return NOT_SUPPORTED;
    *bits = (unsigned long long)script_card_number(device->card, "throttle", 0);
    return SUCCESS;
}

unsigned nvmlDeviceGetTotalEccErrors(device_t device, unsigned kind, unsigned counter, unsigned long long *count) {
    ENTER(device);
    double errors = number(device, kind == 1 ? "ecc_uncorrected" : "ecc_corrected", -1);
    if (errors < 0 || counter != 0) return NOT_SUPPORTED;
    *count = (unsigned long long)errors;
    return SUCCESS;
}

unsigned nvmlDeviceGetPcieReplayCounter(device_t device, unsigned *count) {
    ENTER(device);
    return sensor(device, "replays", 0, count);
}

struct process { unsigned pid; unsigned long long bytes; unsigned instance, compute; };

unsigned nvmlDeviceGetComputeRunningProcesses_v3(device_t device, unsigned *count, struct process *list) {
    ENTER(device);
    char text[1024];
    unsigned room = *count, found = 0;
    if (device->slice >= 0 || !script_card_text(device->card, "processes", text, sizeof text)) text[0] = 0;
    for (char *rest = NULL, *entry = strtok_r(text, ",", &rest); entry != NULL; entry = strtok_r(NULL, ",", &rest)) {
        char *colon = strchr(entry, ':');
        unsigned long long bytes = colon == NULL ? ~0ULL : strtoull(colon + 1, NULL, 10);
        if (found < room) list[found] = (struct process){(unsigned)strtoul(entry, NULL, 10), bytes, ~0u, ~0u};
        found++;
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

static unsigned slices_of(unsigned card) {
    double slices = script_card_number(card, "mig", 0);
    return slices > SLICES_MAX ? SLICES_MAX : (unsigned)slices;
}

unsigned nvmlDeviceGetMigMode(device_t device, unsigned *current, unsigned *pending) {
    ENTER(device);
    double mode = script_card_number(device->card, "mig", -1);
    if (device->slice >= 0 || mode < 0) return NOT_SUPPORTED;
    *current = *pending = 1;
    return SUCCESS;
}

unsigned nvmlDeviceGetMaxMigDeviceCount(device_t device, unsigned *count) {
    ENTER(device);
    *count = device->slice >= 0 ? 0 : SLICES_MAX;
    return SUCCESS;
}

unsigned nvmlDeviceGetMigDeviceHandleByIndex(device_t device, unsigned index, device_t *slice) {
    ENTER(device);
    if (index >= slices_of(device->card)) return NOT_FOUND;
    *slice = &places[device->card][index + 1];
    return SUCCESS;
}

unsigned nvmlDeviceGetGpuInstanceId(device_t device, unsigned *instance) {
    ENTER(device);
    if (device->slice < 0) return NOT_SUPPORTED;
    *instance = (unsigned)number(device, "instance", device->slice + 7);
    return SUCCESS;
}

/* Events: one set, and of every card how many were told. */
static unsigned told[CARDS_MAX];
static int watched[CARDS_MAX];

unsigned nvmlEventSetCreate(void **set) {
    ENTER(NULL);
    *set = watched;
    return SUCCESS;
}

unsigned nvmlEventSetFree(void *set) {
    (void)set;
    script_enter(__func__);
    memset(watched, 0, sizeof watched);
    return SUCCESS;
}

unsigned nvmlDeviceRegisterEvents(device_t device, unsigned long long types, void *set) {
    ENTER(device);
    if (types != 8 || set != watched || device->slice >= 0) return NOT_SUPPORTED;
    watched[device->card] = 1;
    return SUCCESS;
}

struct event { device_t device; unsigned long long type, data; unsigned instance, compute; };

unsigned nvmlEventSetWait_v2(void *set, struct event *event, unsigned milliseconds) {
    ENTER(NULL);
    if (set != watched) return INVALID_ARGUMENT;
    for (unsigned card = 0; card < CARDS_MAX; card++) {
        double xid = script_card_number(card, "xid", -1);
        if (!watched[card] || xid < 0 || told[card] >= script_card_number(card, "xid_count", 1)) continue;
        told[card]++;
        *event = (struct event){&places[card][0], 8, (unsigned long long)xid, ~0u, ~0u};
        return SUCCESS;
    }
    if (milliseconds > 0) usleep(milliseconds * 1000);
    return TIMEOUT;
}
