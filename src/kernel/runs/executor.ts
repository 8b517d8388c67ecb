import { randomUUID } from 'node:crypto';
import type { Run } from '#prisma';
import type { App } from '../app.ts';
import { system } from '../auth/actor.ts';
import { DomainError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { endProcess } from '../processes/children.ts';
import { RunContext } from './context.ts';
import { DeadlineExceeded, Fenced, RunCanceled, WorkerStopping } from './errors.ts';
import { runKind } from './kinds.ts';
import { withTrace } from '../telemetry/trace.ts';
import { Runs, type Hold } from './runs.ts';

interface Execution {
  readonly hold: Hold;
  readonly soft: AbortController;
  readonly hard: AbortController;
  readonly done: Promise<void>;
  /** Monotonic time of the last renewal that is known to have held, milliseconds. */
  renewedAt: number;
}

/** Executes runs in this process: takes them, keeps their leases, ends them. */
export class Executor {
  readonly workerId = randomUUID();
  readonly hostId: string;
  readonly #app: App;
  readonly #log: Logger;
  readonly #running = new Map<string, Execution>();
  #renewTimer: NodeJS.Timeout | null = null;
  #reconcileTimer: NodeJS.Timeout | null = null;
  #reconciling = false;
  #renewing = false;
  #stopping = false;
  #offCancel: () => void = () => undefined;

  constructor(app: App, hostId: string) {
    this.#app = app;
    this.hostId = hostId;
    this.#log = app.log.child({ workerId: this.workerId });
  }

  start(): void {
    const leaseMs = this.#app.limits.runLeaseS * 1000;
    this.#offCancel = this.#app.hub.onCancel((runId) => this.#running.get(runId)?.soft.abort(new RunCanceled()));
    this.#renewTimer = setInterval(() => this.#renew(), leaseMs / 5);
    this.#reconcileTimer = setInterval(() => this.#reconcile(), 1000);
  }

  get running(): number {
    return this.#running.size;
  }

  /** Executes a run until its end or its next wait. Does nothing when it is not to be taken. Never throws. */
  async execute(runId: string): Promise<void> {
    if (this.#stopping || this.#running.has(runId)) return;
    let run: Run | null;
    const takenAt = performance.now();
    try {
      run = await this.#app.use(Runs).take(runId, { workerId: this.workerId, hostId: this.hostId });
    } catch (error) {
      this.#log.error({ err: error, runId }, 'run not taken; the reconciler comes back to it');
      return;
    }
    if (!run) return;
    const hold: Hold = { runId, attempt: run.attempt, workerId: this.workerId };
    const soft = new AbortController();
    const hard = new AbortController();
    const finished = Promise.withResolvers<void>();
    const execution: Execution = { hold, soft, hard, done: finished.promise, renewedAt: takenAt };
    this.#running.set(runId, execution);
    try {
      await this.#work(run, execution);
    } catch (error) {
      // The lease runs out and another worker takes it over.
      this.#log.error({ err: error, runId, attempt: hold.attempt }, 'execution abandoned');
    } finally {
      this.#running.delete(runId);
      finished.resolve();
    }
  }

  /** Stops taking runs, waits for those in progress, then hands the rest back. */
  async stop(graceMs: number): Promise<void> {
    this.#stopping = true;
    this.#offCancel();
    if (this.#reconcileTimer) clearInterval(this.#reconcileTimer);
    const all = () => Promise.all([...this.#running.values()].map((execution) => execution.done));
    let timer: NodeJS.Timeout | undefined;
    const grace = new Promise<void>((resolve) => (timer = setTimeout(resolve, graceMs)));
    await Promise.race([all(), grace]);
    clearTimeout(timer);
    for (const execution of this.#running.values()) execution.hard.abort(new WorkerStopping());
    await all();
    if (this.#renewTimer) clearInterval(this.#renewTimer);
  }

  async #work(run: Run, execution: Execution): Promise<void> {
    const app = this.#app;
    const { hold, soft, hard } = execution;
    const runs = app.use(Runs);
    const kind = runKind(run.kind);
    const log = this.#log.child({ runId: run.id, workspace: run.workspaceId, attempt: run.attempt });
    const signal = AbortSignal.any([soft.signal, hard.signal]);
    const deadline = setTimeout(
      () => soft.abort(new DeadlineExceeded()),
      Math.min(Math.max(run.deadlineAt.getTime() - Date.now(), 0), 2 ** 31 - 1),
    );
    const context = new RunContext({
      app,
      run,
      hold,
      hostId: this.hostId,
      signal,
      hardSignal: hard.signal,
      heldSince: () => performance.now() - execution.renewedAt,
    });
    try {
      await this.#endChildren(run, run.attempt - 1, log);
      if (run.status === 'CANCELING') soft.abort(new RunCanceled());
      const end = await withTrace(run.traceparent ?? undefined, `run ${kind.name}`, () =>
        kind.execute(context as RunContext<never>),
      );
      await context.flush();
      await app.transact(system, (tx) => runs.finish(tx, hold, end));
      log.info({ phase: end.phase }, 'run ended');
    } catch (thrown) {
      const error: unknown = signal.aborted ? signal.reason : thrown;
      if (error instanceof Fenced) {
        log.warn('run is no longer ours; this execution stops');
        return;
      }
      if (error instanceof WorkerStopping) {
        await this.#endChildren(run, run.attempt, log);
        await app.transact(system, (tx) => runs.handBack(tx, hold));
        log.info('run handed back');
        return;
      }
      if (!isVerdict(error)) {
        log.error({ err: error }, 'run failed by a fault of the server');
        if (await this.#databaseIsAway()) throw error;
      }
      await this.#endChildren(run, run.attempt, log);
      await this.#endBy(error, context);
    } finally {
      clearTimeout(deadline);
    }
  }

  async #endBy(error: unknown, context: RunContext): Promise<void> {
    const app = this.#app;
    const kind = runKind(context.run.kind);
    await context.flush();
    await app.transact(system, async (tx) => {
      const runs = app.use(Runs);
      const { phase } = await runs.fence(tx, context.hold);
      await runs.finish(
        tx,
        context.hold,
        error instanceof RunCanceled
          ? { phase: kind.ends.canceled(phase), reason: error.message }
          : {
              phase: kind.ends.failed(phase),
              reason: isVerdict(error) ? error.message : `An internal error, reference ${context.run.id}.`,
              timedOut: error instanceof DeadlineExceeded,
            },
      );
    });
  }

  /** Ends what the run's executions up to this one started on this host and did not complete. */
  async #endChildren(run: Run, upTo: number, log: Logger): Promise<void> {
    const children = await this.#app.db.runChild.findMany({
      where: { runId: run.id, hostId: this.hostId, attempt: { lte: upTo } },
    });
    for (const child of children) {
      const result = await endProcess(child, { graceMs: 0 });
      if (result !== 'GONE')
        log.warn({ pid: child.pid, attempt: child.attempt }, 'ended a process that was left behind');
      await this.#app.db.runChild.deleteMany({ where: { id: child.id } });
    }
  }

  async #databaseIsAway(): Promise<boolean> {
    try {
      await this.#app.database.pool.query('select 1');
      return false;
    } catch {
      return true; // that is the answer
    }
  }

  #renew(): void {
    const now = performance.now();
    const limitMs = (this.#app.limits.runLeaseS * 1000) / 2;
    for (const { renewedAt, hard, hold } of this.#running.values()) {
      if (now - renewedAt > limitMs) hard.abort(new Fenced(hold.runId));
    }
    if (this.#renewing || this.#running.size === 0) return;
    this.#renewing = true;
    this.#app
      .use(Runs)
      .renew(this.workerId, [...this.#running.keys()])
      .then((rows) => {
        const held = new Map(rows.map((row) => [row.id, row]));
        for (const [runId, execution] of this.#running) {
          const row = held.get(runId);
          if (row?.attempt === execution.hold.attempt) {
            execution.renewedAt = now;
            if (row.status === 'CANCELING') execution.soft.abort(new RunCanceled());
          } else if (execution.renewedAt < now) {
            execution.hard.abort(new Fenced(runId));
          }
        }
      })
      .catch((error: unknown) => this.#log.warn({ err: error }, 'leases not renewed; trying again'))
      .finally(() => {
        this.#renewing = false;
      });
  }

  #reconcile(): void {
    if (this.#reconciling) return;
    this.#reconciling = true;
    this.#app
      .use(Runs)
      .reconcile()
      .catch((error: unknown) => this.#log.warn({ err: error }, 'runs not reconciled; trying again'))
      .finally(() => {
        this.#reconciling = false;
      });
  }
}

/** An error that is the run's outcome rather than a fault of the server. */
const isVerdict = (error: unknown): error is Error => error instanceof DomainError || error instanceof RunCanceled;
