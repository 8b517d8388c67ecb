import { setTimeout as delay } from 'node:timers/promises';
import type { App } from '#kernel/app.ts';
import type { Application, Release } from '#prisma';
import { userSlotOf } from './applications.ts';
import type { Driver, Opaque, Usage } from './driver.ts';
import { isAway, type Drivers } from './drivers.ts';
import { evaluateAlerts, Metrics, type Sample } from './metrics.ts';

const probeTimeoutMs = 2000;
/** Health checks of a round that are made at once. */
const sideBySide = 16;

type Serving = Pick<Application, 'id' | 'userSlot' | 'healthCheckPath'> & { readonly release: Release };

/** Looks at every instance that serves on this host, again and again. Runs in the process that looks after the host. */
export class Monitor {
  readonly #app: App;
  readonly #drivers: Drivers;
  readonly #hostId: string;
  readonly #agentId: string;
  readonly #everyMs: number;
  /** What each instance had used at the last look, by its own JSON: a new instance begins anew. */
  #before = new Map<string, { readonly usage: Usage; readonly at: number }>();

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
        await this.round(signal);
      } catch (error) {
        if (!signal.aborted) this.#app.log.warn({ err: error }, 'instances not looked at; trying again');
      }
      const leftMs = Math.max(this.#everyMs - (performance.now() - begun), 100);
      await delay(leftMs, undefined, { signal }).catch(() => undefined); // the loop sees the signal
    }
  }

  async round(signal: AbortSignal): Promise<void> {
    const applications = await this.#serving();
    const samples: Sample[] = [];
    const seen = new Map<string, { readonly usage: Usage; readonly at: number }>();
    for (const [name, group] of Map.groupBy(applications, ({ release }) => release.driver)) {
      try {
        const driver = this.#drivers.get(name);
        const usages = await driver.usage(group.map(({ release }) => release.instance as Opaque));
        const at = performance.now();
        const pending = group.map((application, index) => ({ application, usage: usages[index] ?? null }));
        await inParts(pending, sideBySide, async ({ application, usage }) => {
          const key = JSON.stringify([application.release.id, application.release.instance]);
          if (usage) seen.set(key, { usage, at });
          const sample = await this.#look(driver, application, usage, this.#before.get(key), at, signal);
          samples.push(sample);
        });
      } catch (error) {
        if (signal.aborted) throw error;
        // What one driver cannot tell is not invented, and keeps no other from telling. Of one that is away the agent speaks.
        if (!isAway(error)) this.#app.log.warn({ err: error, driver: name }, 'instances of a driver not looked at');
      }
    }
    this.#before = seen;
    await this.#app.use(Metrics).add(samples);
    await evaluateAlerts(this.#app, this.#hostId);
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
