import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import type { App } from '#kernel/app.ts';
import type { Application, Release } from '#prisma';
import { userSlotOf } from './applications.ts';
import type { Driver, DriverName, Opaque, Usage } from './driver.ts';
import { isAway, type Drivers } from './drivers.ts';
import { evaluateAlerts, Metrics, type Sample } from './metrics.ts';

const probeTimeoutMs = 2000;
/** Health checks of a round that are made at once. */
const sideBySide = 16;

type Serving = Pick<Application, 'id' | 'userSlot' | 'healthCheckPath'> & { readonly release: Release };

/** Looks of one driver: who has told nothing for so many of them is taken for silent. */
const silentAfter = 2;

type Seen = ReadonlyMap<string, { readonly usage: Usage; readonly at: number }>;

/** The looks at all instances of one driver, which go on side by side with those of the others. */
interface Round {
  readonly done: Promise<void>;
  /** Looks that were due since it began. */
  missed: number;
}

/**
 * Looks at every instance that serves on this host, again and again. Runs in the process that looks after the host. Each
 * driver has its own round: one that answers nothing costs only its own figures, which are told as not known.
 */
export class Monitor {
  readonly #app: App;
  readonly #drivers: Drivers;
  readonly #hostId: string;
  readonly #agentId: string;
  readonly #everyMs: number;
  readonly #rounds = new Map<DriverName, Round>();
  /** By driver, what each instance had used at the last look, by its own JSON: a new instance begins anew. */
  readonly #before = new Map<DriverName, Seen>();
  #alerts: Promise<void> = Promise.resolve();

  constructor(app: App, drivers: Drivers, options: { hostId: string; agentId: string; everyMs: number }) {
    this.#app = app;
    this.#drivers = drivers;
    this.#hostId = options.hostId;
    this.#agentId = options.agentId;
    this.#everyMs = options.everyMs;
  }

  /** Goes on until the signal ends it. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const begun = performance.now();
      try {
        await this.#begin(signal);
      } catch (error) {
        if (!signal.aborted) this.#app.log.warn({ err: error }, 'instances not looked at; trying again');
      }
      const leftMs = Math.max(this.#everyMs - (performance.now() - begun), 100);
      await delay(leftMs, undefined, { signal }).catch(() => undefined); // the loop sees the signal
    }
    await Promise.all([...this.#rounds.values()].map(({ done }) => done));
    await this.#alerts;
  }

  /** Begins a round of each driver that has none under way. */
  async #begin(signal: AbortSignal): Promise<void> {
    const groups = Map.groupBy(await this.#serving(), ({ release }) => release.driver);
    for (const [name, group] of groups) {
      const round = this.#rounds.get(name);
      if (!round) {
        const done = this.#round(name, group, signal).finally(() => this.#rounds.delete(name));
        this.#rounds.set(name, { done, missed: 0 });
      } else if ((round.missed += 1) >= silentAfter) await this.#keep(group.map(unknown), signal);
    }
    if (groups.size === 0) this.#evaluate(signal);
  }

  /** Never rejects. */
  async #round(name: DriverName, group: readonly Serving[], signal: AbortSignal): Promise<void> {
    try {
      await this.#keep(await this.#samples(name, group, signal), signal);
    } catch (error) {
      if (!signal.aborted) this.#app.log.warn({ err: error, driver: name }, 'instances not looked at; trying again');
    }
  }

  async #samples(name: DriverName, group: readonly Serving[], signal: AbortSignal): Promise<Sample[]> {
    const before = this.#before.get(name);
    const seen = new Map<string, { readonly usage: Usage; readonly at: number }>();
    const samples: Sample[] = [];
    const told = new AbortController();
    try {
      signal.throwIfAborted();
      const driver = this.#drivers.get(name);
      // What hangs has limits of its own; a server that stops does not wait for them.
      const usages = await Promise.race([
        driver.usage(group.map(({ release }) => release.instance as Opaque)),
        once(signal, 'abort', { signal: told.signal }).then((): never => {
          throw signal.reason;
        }),
      ]);
      const at = performance.now();
      const pending = group.map((application, index) => ({ application, usage: usages[index] ?? null }));
      await inParts(pending, sideBySide, async ({ application, usage }) => {
        const key = JSON.stringify([application.release.id, application.release.instance]);
        if (usage) seen.set(key, { usage, at });
        samples.push(await this.#look(driver, application, usage, before?.get(key), at, signal));
      });
      this.#before.set(name, seen);
      return samples;
    } catch (error) {
      if (signal.aborted) throw error;
      // Of one that is away the agent speaks.
      if (!isAway(error)) this.#app.log.warn({ err: error, driver: name }, 'instances of a driver not looked at');
      return group.map(unknown);
    } finally {
      told.abort();
    }
  }

  async #keep(samples: readonly Sample[], signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    await this.#app.use(Metrics).add(samples);
    this.#evaluate(signal);
  }

  /** One after the other: two would open the same item. */
  #evaluate(signal: AbortSignal): void {
    this.#alerts = this.#alerts
      .then(async () => (signal.aborted ? undefined : evaluateAlerts(this.#app, this.#hostId)))
      .catch((error: unknown) => this.#app.log.warn({ err: error }, 'alert rules not looked at; trying again'));
  }

  async #serving(): Promise<Serving[]> {
    const rows = await this.#app.db.application.findMany({
      where: { host: { id: this.#hostId, agentId: this.#agentId }, activeReleaseId: { not: null } },
      select: { id: true, userSlot: true, healthCheckPath: true, activeRelease: true },
    });
    return rows.flatMap(({ activeRelease, ...application }) =>
      activeRelease?.instance != null && activeRelease.instancePort !== null
        ? [{ ...application, release: activeRelease }]
        : [],
    );
  }

  async #look(
    driver: Driver,
    application: Serving,
    usage: Usage | null,
    before: { readonly usage: Usage; readonly at: number } | undefined,
    at: number,
    signal: AbortSignal,
  ): Promise<Sample> {
    const { release } = application;
    const probe = await driver.probe({
      applicationId: application.id,
      userSlot: userSlotOf(application),
      instance: release.instance as Opaque,
      port: release.instancePort ?? 0,
      path: application.healthCheckPath,
      timeoutMs: probeTimeoutMs,
      signal,
    });
    const since = (of: (one: Usage) => number | null): number | null => {
      const [now, then] = [usage && of(usage), before && of(before.usage)];
      return now == null || then == null ? null : Math.max(now - then, 0);
    };
    const cpuMs = since((one) => one.cpuMs);
    const missing: Record<string, string> = usage
      ? { ...(before ? {} : firstLook), ...usage.missing }
      : { CPU: 'NOT_RUNNING', MEMORY: 'NOT_RUNNING', MEMORY_LIMIT: 'NOT_RUNNING', DISK: 'NOT_RUNNING', NETWORK: 'NOT_RUNNING' }; // prettier-ignore
    return {
      applicationId: application.id,
      milliCpus: cpuMs === null || !before ? null : (cpuMs * 1000) / (at - before.at),
      memoryBytes: usage?.memoryBytes ?? null,
      memoryLimitBytes: usage?.memoryLimitBytes ?? null,
      diskReadBytes: since((one) => one.diskReadBytes),
      diskWrittenBytes: since((one) => one.diskWrittenBytes),
      networkReceivedBytes: since((one) => one.networkReceivedBytes),
      networkSentBytes: since((one) => one.networkSentBytes),
      healthy: probe.ok,
      latencyMs: probe.ok ? probe.latencyMs : null,
      missing: Object.entries(missing).map(([figure, why]) => `${figure}:${why}`),
    };
  }
}

/** Of an instance whose driver tells nothing. */
function unknown({ id }: Serving): Sample {
  return {
    applicationId: id,
    milliCpus: null,
    memoryBytes: null,
    memoryLimitBytes: null,
    diskReadBytes: null,
    diskWrittenBytes: null,
    networkReceivedBytes: null,
    networkSentBytes: null,
    healthy: null,
    latencyMs: null,
    missing: ['CPU', 'MEMORY', 'MEMORY_LIMIT', 'DISK', 'NETWORK', 'HEALTH'].map((figure) => `${figure}:NO_ANSWER`),
  };
}

/** Rates are known from the second look on. */
const firstLook = { CPU: 'FIRST_LOOK', DISK: 'FIRST_LOOK', NETWORK: 'FIRST_LOOK' } as const;

/** Works on all of them, so many at a time. @throws the first failure, when all that had begun is over */
async function inParts<T>(all: readonly T[], size: number, work: (one: T) => Promise<void>): Promise<void> {
  const rest = all.values();
  const results = await Promise.allSettled(
    Array.from({ length: Math.min(size, all.length) }, async () => {
      for (const one of rest) await work(one);
    }),
  );
  const failed = results.find((one) => one.status === 'rejected');
  if (failed) throw failed.reason;
}
