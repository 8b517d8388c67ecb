import { z } from 'zod';
import { service, type App } from '#kernel/app.ts';
import { system } from '#kernel/auth/actor.ts';
import { Inbox } from '#kernel/inbox/inbox.ts';
import { defineJob } from '#kernel/jobs/define.ts';
import { alertKey } from './alerts.ts';
import { conditions, type AlertConditionName, type Resolution } from '../model.ts';

/** How long points are kept, seconds, by the length of their span. */
const keptS: Readonly<Record<number, number>> = { 0: 24 * 3600, 60: 14 * 24 * 3600, 3600: 400 * 24 * 3600 };
/** Most points of one answer; a longer time has a coarser resolution. */
export const maxPoints = 1500;

/** How often a stream looks for points that nothing told it of, milliseconds. */
const lookAgainMs = 5_000;

/** One look at an application's instance. Bytes of disk and network are those since the look before. */
export interface Sample {
  readonly applicationId: string;
  readonly milliCpus: number | null;
  readonly memoryBytes: number | null;
  readonly memoryLimitBytes: number | null;
  readonly diskReadBytes: number | null;
  readonly diskWrittenBytes: number | null;
  readonly networkReceivedBytes: number | null;
  readonly networkSentBytes: number | null;
  /** Null: it could not be asked. */
  readonly healthy: boolean | null;
  readonly latencyMs: number | null;
  readonly missing: readonly string[];
}

export interface Point extends Omit<Sample, 'applicationId' | 'healthy'> {
  readonly at: Date;
  readonly spanS: number;
  readonly samples: number;
  readonly milliCpusMost: number | null;
  readonly memoryBytesMost: number | null;
  readonly latencyMsMost: number | null;
  readonly probes: number;
  readonly healthy: number;
}

const columns = `at, span_s "spanS", samples, milli_cpus "milliCpus", milli_cpus_most "milliCpusMost", memory_bytes "memoryBytes",
  memory_bytes_most "memoryBytesMost", memory_limit_bytes "memoryLimitBytes", disk_read_bytes "diskReadBytes",
  disk_written_bytes "diskWrittenBytes", network_received_bytes "networkReceivedBytes", network_sent_bytes "networkSentBytes",
  probes, healthy, latency_ms "latencyMs", latency_ms_most "latencyMsMost", missing`;

/** The writer of metric points. */
export const Metrics = service('metrics', (app) => {
  /** Reads that are on their way: those who were woken together read once. */
  const reading = new Map<string, Promise<Point[]>>();
  return {
    /** Writes a round of looks, in one statement, and wakes those who watch. */
    async add(samples: readonly Sample[]): Promise<void> {
      if (samples.length === 0) return;
      const of = <K extends keyof Sample>(key: K): Sample[K][] => samples.map((one) => one[key]);
      await app.database.pool.query(
        `insert into metric_point (application_id, span_s, at, samples, milli_cpus, milli_cpus_most, memory_bytes, memory_bytes_most,
         memory_limit_bytes, disk_read_bytes, disk_written_bytes, network_received_bytes, network_sent_bytes, probes, healthy,
         latency_ms, latency_ms_most, missing)
       select s.id, 0, date_trunc('milliseconds', clock_timestamp()), 1, cpu, cpu, memory, memory, memory_limit, read, written, received, sent,
         (healthy is not null)::int, coalesce(healthy, false)::int, latency, latency, string_to_array(missing, ',')
       from unnest($1::uuid[], $2::float8[], $3::float8[], $4::float8[], $5::float8[], $6::float8[], $7::float8[], $8::float8[],
         $9::bool[], $10::float8[], $11::text[]) s(id, cpu, memory, memory_limit, read, written, received, sent, healthy, latency, missing)
       join application a on a.id = s.id
       on conflict do nothing`,
        [
        of('applicationId'), of('milliCpus'), of('memoryBytes'), of('memoryLimitBytes'), of('diskReadBytes'),
        of('diskWrittenBytes'), of('networkReceivedBytes'), of('networkSentBytes'), of('healthy'), of('latencyMs'),
        samples.map(({ missing }) => missing.join(',')),
      ], // prettier-ignore
      );
      for (const { applicationId } of samples) app.wakeUps.publish(`m:${applicationId}`);
    },

    /** Points of a time of several applications, oldest first; of each at most `maxPoints`, the newest. */
    async between(ids: readonly string[], from: Date, to: Date, spanS: number): Promise<ReadonlyMap<string, Point[]>> {
      const { rows } = await app.database.pool.query<Point & { applicationId: string }>(
        `select a.id "applicationId", p.* from unnest($1::uuid[]) a(id) cross join lateral (
           select ${columns} from metric_point where application_id = a.id and span_s = $2 and at >= $3 and at < $4
           order by at desc limit $5
         ) p order by p.at`,
        [ids, spanS, from, to, maxPoints],
      );
      return Map.groupBy(rows, ({ applicationId }) => applicationId);
    },

    /** Looks after a moment, oldest first. */
    after(applicationId: string, at: Date): Promise<Point[]> {
      const key = `${applicationId} ${at.getTime()}`;
      let points = reading.get(key);
      if (!points) {
        points = app.database.pool
          .query<Point>(
            `select ${columns} from metric_point where application_id = $1 and span_s = 0 and at > $2 order by at limit $3`,
            [applicationId, at, maxPoints],
          )
          .then(({ rows }) => rows)
          .finally(() => reading.delete(key));
        reading.set(key, points);
      }
      return points;
    },

    /** Looks after a moment, then each new one, until the signal ends it. */
    async *follow(applicationId: string, from: Date, signal: AbortSignal): AsyncGenerator<Point, void, void> {
      let woken = Promise.withResolvers<void>();
      const wake = (): void => woken.resolve();
      const forget = app.hub.onKey(`m:${applicationId}`, wake);
      signal.addEventListener('abort', wake, { once: true });
      try {
        for (let last = from; !signal.aborted;) {
          woken = Promise.withResolvers<void>();
          const points = await this.after(applicationId, last);
          yield* points;
          last = points.at(-1)?.at ?? last;
          if (points.length > 0) continue;
          // Wake-ups may be lost.
          const timer = setTimeout(wake, lookAgainMs);
          await woken.promise;
          clearTimeout(timer);
        }
      } finally {
        forget();
        signal.removeEventListener('abort', wake);
      }
    },
  };
});

/** The finest resolution that a time of this length has at most `maxPoints` of. */
export function resolutionFor(from: Date, to: Date): Resolution {
  const lengthS = (to.getTime() - from.getTime()) / 1000;
  const oldS = (Date.now() - from.getTime()) / 1000;
  if (lengthS <= maxPoints * 5 && oldS < (keptS[0] ?? 0)) return 'LOOK';
  return lengthS <= maxPoints * 60 && oldS < (keptS[60] ?? 0) ? 'MINUTE' : 'HOUR';
}

/** Opens and closes inbox items as the rules of a host's applications say. */
export async function evaluateAlerts(app: App, hostId: string): Promise<void> {
  const { rows } =
    await app.database.pool.query<{
    rule_id: string; workspace_id: string; application_id: string; name: string; condition: AlertConditionName;
    threshold: number; window_s: number; value: number | null; holds: boolean | null; open: boolean;
  }>( // prettier-ignore
      `select r.id rule_id, r.workspace_id, a.id application_id, a.name, r.condition, r.threshold, r.window_s,
       m.value, coalesce(m.value >= r.threshold and (r.condition = 'RESTARTS' or m.since), false) holds,
       exists (select 1 from inbox_item i where i.workspace_id = r.workspace_id and i.open_key = $2 || r.id) open
     from alert_rule r join application a on a.id = r.application_id
     cross join lateral (
       select case r.condition
           when 'UNHEALTHY' then 100.0 * sum(probes - healthy) / nullif(sum(probes), 0)
           when 'MEMORY' then 100.0 * avg(memory_bytes / nullif(memory_limit_bytes, 0))
           when 'CPU' then avg(milli_cpus)
           else (select count(*) from event e where e.workspace_id = a.workspace_id and e.subject_id = a.id
                   and e.type = 'application.restarted' and e.at > now() - make_interval(secs => r.window_s)) end value,
         -- It was looked at for as long as it must hold: not only since a moment ago.
         exists (select 1 from metric_point p where p.application_id = a.id and p.span_s = 0
           and p.at between now() - make_interval(secs => r.window_s * 2 + 60) and now() - make_interval(secs => r.window_s)) since
       from metric_point p where p.application_id = a.id and p.span_s = 0 and p.at > now() - make_interval(secs => r.window_s)
     ) m
     where a.host_id = $1`,
      [hostId, alertKey('')],
    );
  for (const row of rows.filter(({ holds, open }) => Boolean(holds) !== open)) {
    const key = alertKey(row.rule_id);
    const { workspace_id: workspaceId, application_id: subjectId } = row;
    await app.transact(system, async (tx) =>
      row.holds
        ? app.use(Inbox).open(tx, {
            workspaceId,
            kind: 'deployments.alert',
            subjectType: 'Application',
            subjectId,
            title: `${row.name}: ${conditions[row.condition].title(row.value ?? 0, row.window_s)}`,
            data: { ruleId: row.rule_id, condition: row.condition, value: row.value, threshold: row.threshold },
            key,
          })
        : app.use(Inbox).resolve(tx, workspaceId, key),
    );
  }
}

/** Points of spans of `to` seconds from those of `from` seconds: from the last one that there is, which may have been incomplete. */
const rollUp = (from: number, to: number): string => `
  insert into metric_point (application_id, span_s, at, samples, milli_cpus, milli_cpus_most, memory_bytes, memory_bytes_most,
    memory_limit_bytes, disk_read_bytes, disk_written_bytes, network_received_bytes, network_sent_bytes, probes, healthy,
    latency_ms, latency_ms_most, missing)
  select application_id, ${to}, begin, samples, milli_cpus, milli_cpus_most, memory_bytes, memory_bytes_most, memory_limit_bytes,
    disk_read_bytes, disk_written_bytes, network_received_bytes, network_sent_bytes, probes, healthy, latency_ms, latency_ms_most,
    array(select distinct one from unnest(string_to_array(missing, ',')) one where one <> '')
  from (
    select application_id, date_bin('${to} seconds', at, 'epoch') begin, sum(samples) samples,
      sum(milli_cpus * samples) / nullif(sum(samples) filter (where milli_cpus is not null), 0) milli_cpus,
      max(milli_cpus_most) milli_cpus_most,
      sum(memory_bytes * samples) / nullif(sum(samples) filter (where memory_bytes is not null), 0) memory_bytes,
      max(memory_bytes_most) memory_bytes_most, max(memory_limit_bytes) memory_limit_bytes, sum(disk_read_bytes) disk_read_bytes,
      sum(disk_written_bytes) disk_written_bytes, sum(network_received_bytes) network_received_bytes,
      sum(network_sent_bytes) network_sent_bytes, sum(probes) probes, sum(healthy) healthy,
      sum(latency_ms * healthy) / nullif(sum(healthy) filter (where latency_ms is not null), 0) latency_ms,
      max(latency_ms_most) latency_ms_most, string_agg(array_to_string(missing, ','), ',') missing
    from metric_point
    where span_s = ${from} and at < date_bin('${to} seconds', now(), 'epoch')
      and at >= coalesce((select max(at) from metric_point where span_s = ${to}), '-infinity')
    group by application_id, begin
  ) spans
  on conflict (application_id, span_s, at) do update set samples = excluded.samples, milli_cpus = excluded.milli_cpus,
    milli_cpus_most = excluded.milli_cpus_most, memory_bytes = excluded.memory_bytes, memory_bytes_most = excluded.memory_bytes_most,
    memory_limit_bytes = excluded.memory_limit_bytes, disk_read_bytes = excluded.disk_read_bytes,
    disk_written_bytes = excluded.disk_written_bytes, network_received_bytes = excluded.network_received_bytes,
    network_sent_bytes = excluded.network_sent_bytes, probes = excluded.probes, healthy = excluded.healthy,
    latency_ms = excluded.latency_ms, latency_ms_most = excluded.latency_ms_most, missing = excluded.missing`;

/** Makes minutes of looks and hours of minutes, and removes what is older than it is kept. Fine to run twice. */
export const rollUpMetrics = defineJob({
  name: 'deployments.rollUpMetrics',
  payload: z.object({}),
  attempts: 3,
  retryDelayS: 30,
  timeoutS: 600,
  cron: '*/5 * * * *',
  async handle(_payload, { app }) {
    await app.database.pool.query(rollUp(0, 60));
    await app.database.pool.query(rollUp(60, 3600));
    for (const [spanS, keepS] of Object.entries(keptS))
      await app.database.pool.query(
        `delete from metric_point where span_s = $1 and at < now() - make_interval(secs => $2)`,
        [Number(spanS), keepS],
      );
  },
});
