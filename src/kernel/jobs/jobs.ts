import { PgBoss, type Job, type SendOptions } from 'pg-boss';
import type { Run } from '#prisma';
import type { App } from '../app.ts';
import type { Actor } from '../auth/actor.ts';
import { authorizeRow } from '../auth/policy.ts';
import { nameLifetimeS, Names } from '../db/names.ts';
import type { Transaction } from '../db/transact.ts';
import { Conflict, NotFound } from '../errors.ts';
import { isId } from '../ids.ts';
import type { WakeUps } from '../live/wakeups.ts';
import type { Logger } from '../log.ts';
import { runPolicy } from '../runs/policy.ts';
import { currentTraceparent, withTrace } from '../telemetry/trace.ts';
import { jobTypes, type JobType } from './define.ts';

/** Queue of runs that any worker may execute. */
const anyHost = 'run';
const hostQueue = (hostId: string): string => `run.${hostId}`;
const jobQueue = (name: string): string => `job.${name}`;
const deadQueue = 'dead';
/** Of the wake-up that tells of a queue. */
const keyOf = (queue: string): string => `q:${queue}`;

interface Envelope {
  readonly payload: object;
  readonly traceparent?: string;
}

/** Wake-ups for runs are dropped after this: the reconciler sends new ones. */
const wakeUp = {
  policy: 'short',
  retryLimit: 0,
  expireInSeconds: 23 * 3600,
  retentionSeconds: 3600,
  deleteAfterSeconds: 60,
} as const;

/**
 * What the engine would write, told of the queue's own options: its statement takes those from the queue, and costs twice
 * as much. Where the queue has one that waits for the same run, there is nothing to add.
 * @see https://timgit.github.io/pg-boss/#/./sql
 */
const wakeUpText = `
  insert into pgboss.job (name, data, singleton_key, policy, retry_limit, expire_seconds, deletion_seconds, keep_until)
  values ($1, $2, $3, '${wakeUp.policy}', ${wakeUp.retryLimit}, ${wakeUp.expireInSeconds}, ${wakeUp.deleteAfterSeconds},
          now() + interval '${wakeUp.retentionSeconds} seconds')
  on conflict do nothing`;

/** Of the engine's own notice: NOTIFY in a transaction has all that do so commit one after another. */
const unannounced = { notify: false } as const;

/** Queues in the caller's transaction, and waits for no answer: the engine would only tell the id that a job was given. */
const within = (tx: Transaction): NonNullable<SendOptions['db']> => ({
  async executeSql(text, values) {
    tx.send(text, values as string[]);
    return { rows: [] };
  },
});

/**
 * Jobs in the database of the state that they belong to, so that they are queued in its transaction. A run's job is
 * a wake-up only: the run row is the truth.
 * @see https://pgboss.io
 */
export class Jobs {
  readonly #boss: PgBoss;
  readonly #log: Logger;
  readonly #wakeUps: WakeUps;
  readonly #hostQueues = new Set<string>();
  readonly #runQueues: string[] = [];
  /** What ends hearing of new jobs. */
  readonly #deaf: (() => void)[] = [];

  constructor(options: { directUrl: string; worker: boolean; log: Logger; name: string; wakeUps: WakeUps }) {
    this.#log = options.log;
    this.#wakeUps = options.wakeUps;
    this.#boss = new PgBoss({
      connectionString: options.directUrl,
      schema: 'pgboss',
      application_name: `switchyard-jobs-${options.name}`,
      max: options.worker ? 5 : 2,
      supervise: options.worker,
      schedule: options.worker,
      superviseIntervalSeconds: 5,
      monitorIntervalSeconds: 5,
      cronMonitorIntervalSeconds: 10,
      useListenNotify: options.worker,
      migrate: true,
      // All of this is given to the driver's pool, too.
      ...({ maxLifetimeSeconds: nameLifetimeS } as object),
    });
    this.#boss.on('error', (error) => this.#log.warn({ err: error }, 'job engine'));
    this.#boss.on('warning', (warning) => this.#log.debug({ warning }, 'job engine'));
  }

  /** Makes the engine's tables and every queue. Safe with several processes at once. */
  async start(): Promise<void> {
    await this.#boss.start();
    this.#prepare();
    await this.#createRunQueue(anyHost);
    await this.#boss.createQueue(deadQueue, { retryLimit: 20, retryDelay: 5, retryBackoff: true, notify: true });
    for (const type of jobTypes().values()) {
      const options = {
        retryLimit: type.attempts - 1,
        retryDelay: type.retryDelayS,
        retryBackoff: true,
        retryDelayMax: 3600,
        expireInSeconds: type.timeoutS,
        heartbeatSeconds: 10,
        deadLetter: deadQueue,
        ...unannounced,
      };
      await this.#boss.createQueue(jobQueue(type.name), options);
      await this.#boss.updateQueue(jobQueue(type.name), options);
    }
  }

  /**
   * Has the engine's statements prepared: each of its workers asks the same again and again, and to plan what takes a job
   * costs as much as to take it. Its connections are its own, and go to PostgreSQL itself.
   */
  #prepare(): void {
    const engine = this.#boss.getDb();
    const execute = engine.executeSql.bind(engine);
    const names = new Names({ prefix: 'of a job ', most: 200 });
    // The engine gives its text to the driver as it is, which takes all that there is of a statement in its place.
    engine.executeSql = (text, values) =>
      values?.length ? execute({ name: names.of(text) ?? '', text, values } as unknown as string) : execute(text);
  }

  async #createRunQueue(name: string): Promise<void> {
    await this.#boss.createQueue(name, wakeUp);
    // One that a former version made says otherwise.
    await this.#boss.updateQueue(name, unannounced);
  }

  /** Executes jobs in this process: `executeRun` for wake-ups, the handlers of all job types for the rest. */
  async work(
    app: App,
    options: { hostId: string; slots: number; executeRun: (runId: string) => Promise<void> },
  ): Promise<void> {
    await this.#createRunQueue(hostQueue(options.hostId));
    for (const queue of [anyHost, hostQueue(options.hostId)]) {
      this.#runQueues.push(queue);
      await this.#slots<{ runId: string }>(app, queue, options.slots, (job) => options.executeRun(job.data.runId));
    }
    for (const type of jobTypes().values()) {
      await this.#slots<Envelope>(app, jobQueue(type.name), 2, (job) => this.#handle(app, type, job));
      if (type.cron) await this.#boss.schedule(jobQueue(type.name), type.cron, { payload: {} }, { tz: 'UTC' });
    }
    await this.#slots<Envelope>(app, deadQueue, 1, (job) => this.#bury(app, job), { includeMetadata: true });
  }

  /** Stops taking wake-ups for runs; those that were taken go on. */
  async pauseRuns(): Promise<void> {
    for (const end of this.#deaf) end();
    for (const queue of this.#runQueues) await this.#boss.offWork(queue, { wait: false });
  }

  /** Stops taking jobs. Those in progress end by their own means before. */
  async stop(): Promise<void> {
    await this.#boss.stop({ graceful: false, close: true });
  }

  /** Queues a job in the caller's transaction, for now or for later. */
  async enqueue<P extends object>(
    tx: Transaction,
    type: JobType<P>,
    payload: P,
    options: { startAfter?: Date } = {},
  ): Promise<void> {
    const traceparent = currentTraceparent();
    const data: Envelope = { payload: type.payload.parse(payload), ...(traceparent ? { traceparent } : {}) };
    const queue = jobQueue(type.name);
    await this.#boss.send(queue, data, { ...options, db: within(tx) });
    if (!options.startAfter) tx.afterCommit(() => this.#announce(queue));
  }

  /** Queues a wake-up for a run in the caller's transaction. */
  async wakeRun(tx: Transaction, run: Pick<Run, 'id' | 'hostId'>): Promise<void> {
    await this.#ensureHostQueue(run.hostId);
    const queue = run.hostId ? hostQueue(run.hostId) : anyHost;
    tx.send(wakeUpText, [queue, JSON.stringify({ runId: run.id }), run.id]);
    tx.afterCommit(() => this.#announce(queue));
  }

  /** Wakes runs that may have lost their wake-up. Does nothing for those that have one. */
  async wakeRuns(runs: readonly Pick<Run, 'id' | 'hostId'>[]): Promise<void> {
    const byQueue = Map.groupBy(runs, (run) => (run.hostId ? hostQueue(run.hostId) : anyHost));
    for (const [queue, group] of byQueue) {
      await this.#ensureHostQueue(group[0]?.hostId ?? null);
      await this.#boss.insert(
        queue,
        group.map((run) => ({ data: { runId: run.id }, singletonKey: run.id })),
      );
      this.#announce(queue);
    }
  }

  /**
   * Puts a dead letter back into its queue.
   * @throws {NotFound} {Forbidden} {Conflict} when that was done already
   */
  async replay(app: App, actor: Actor, id: string): Promise<{ id: string }> {
    if (!isId(id)) throw new NotFound('DeadLetter', id);
    return app.transact(actor, async (tx) => {
      const letter = await tx.db.deadLetter.findUnique({ where: { id } });
      // Letters of the server itself belong to no workspace: for its members they do not exist.
      const owned = letter?.workspaceId ? { ...letter, workspaceId: letter.workspaceId } : null;
      authorizeRow(actor, runPolicy.verbs.replayDeadLetter, owned, 'DeadLetter', id);
      const type = jobTypes().get(owned.job);
      if (!type) throw new Conflict(`This server no longer knows the job ${owned.job}.`);
      const { count } = await tx.db.deadLetter.updateMany({
        where: { id, replayedAt: null },
        data: { replayedAt: new Date() },
      });
      if (count === 0) throw new Conflict('It was put back already.');
      await this.enqueue(tx, type as unknown as JobType, owned.payload as object);
      return { id };
    });
  }

  /** A host's queue exists once one of its workers started; it may not have done so on a restored database. */
  async #ensureHostQueue(hostId: string | null): Promise<void> {
    if (!hostId || this.#hostQueues.has(hostId)) return;
    await this.#createRunQueue(hostQueue(hostId));
    this.#hostQueues.add(hostId);
  }

  /** Tells workers that there is something in a queue; one that does not hear of it looks within two seconds. */
  #announce(queue: string): void {
    this.#wakeUps.publish(keyOf(queue));
  }

  /** One worker a slot, told to look again after each job: else a queue of short jobs drains at the polling interval. */
  async #slots<T extends object>(
    app: App,
    queue: string,
    slots: number,
    handle: (job: Job<T>) => Promise<void>,
    more: { includeMetadata?: boolean } = {},
  ): Promise<void> {
    const workers: { id: string | null }[] = [];
    const wake = () => {
      for (const { id } of workers) if (id) this.#boss.notifyWorker(id);
    };
    this.#deaf.push(app.hub.onKey(keyOf(queue), wake));
    for (let slot = 0; slot < slots; slot++) {
      const worker: { id: string | null } = { id: null };
      workers.push(worker);
      worker.id = await this.#boss.work<T>(
        queue,
        {
          batchSize: 1,
          pollingIntervalSeconds: 2,
          notifyPollingIntervalSeconds: 2,
          heartbeatRefreshSeconds: 2,
          ...more,
        },
        async ([job]) => {
          if (!job) return;
          try {
            await handle(job);
          } finally {
            if (worker.id) this.#boss.notifyWorker(worker.id);
          }
        },
      );
    }
  }

  async #handle(app: App, type: JobType<never>, job: Job<Envelope>): Promise<void> {
    const attempt = ((job as { retryCount?: number }).retryCount ?? 0) + 1;
    try {
      const payload = type.payload.parse(job.data.payload);
      await withTrace(job.data.traceparent, `job ${type.name}`, () =>
        app.database.unhurried(async () => type.handle(payload, { app, signal: job.signal, attempt })),
      );
      app.metrics.jobs.inc({ queue: type.name, outcome: 'completed' });
    } catch (error) {
      this.#log.warn({ err: error, job: type.name, attempt }, 'job failed');
      app.metrics.jobs.inc({ queue: type.name, outcome: 'failed' });
      throw error;
    }
  }

  async #bury(app: App, job: Job<Envelope>): Promise<void> {
    const dead = job as Job<Envelope> & {
      sourceName?: string;
      sourceOutput?: { message?: string };
      sourceRetryCount?: number;
    };
    const name = (dead.sourceName ?? '').replace(/^job\./, '');
    const type = jobTypes().get(name);
    const workspaceId = type?.workspaceOf?.(job.data.payload as never) ?? null;
    await app.db.deadLetter.createMany({
      data: {
        id: job.id,
        workspaceId,
        job: name,
        payload: job.data.payload,
        error: (dead.sourceOutput?.message ?? 'The worker was lost.').slice(0, 4000),
        attempts: type?.attempts ?? 0,
      },
      skipDuplicates: true,
    });
    app.metrics.jobs.inc({ queue: name, outcome: 'dead' });
  }
}
