import { randomUUID } from 'node:crypto';
import type { Run } from '#prisma';
import type { App } from '../app.ts';
import { system } from '../auth/actor.ts';
import { isAway } from '../db/away.ts';
import { DomainError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { endProcess } from '../processes/children.ts';
import { RunContext } from './context.ts';
import { DeadlineExceeded, Fenced, RunCanceled, WorkerStopping } from './errors.ts';
import type { Taken } from './holding.ts';
import { phaseOf, runKind } from './kinds.ts';
import { withTrace } from '../telemetry/trace.ts';
import { Runs, type Hold } from './runs.ts';

interface Execution {
  readonly hold: Hold;
  readonly soft: AbortController;
  readonly hard: AbortController;
  readonly done: Promise<void>;
  /** Monotonic time of the last renewal that is known to have held, milliseconds. */
  renewedAt: number;
  /** While the answer to one is not there. */
  renewing: boolean;
}

/** Executes runs in this process, so many at once: takes them, keeps their leases, ends them. */
export class Executor {
  readonly workerId = randomUUID();
  readonly hostId: string;
  readonly #slots: number;
  readonly #app: App;
  readonly #log: Logger;
  /** One that lost its run may still be ending while the same run is executed anew. */
  readonly #running = new Set<Execution>();
  #renewTimer: NodeJS.Timeout | null = null;
  #reconcileTimer: NodeJS.Timeout | null = null;
  #reconciling = false;
  #stopping = false;
  #offCancel: () => void = () => undefined;
  /** Runs that came when it was stopping: others must hear of them. */
  readonly #missed: string[] = [];
  #busy = 0;
  /** Those that wait for a slot. */
  readonly #waiting: (() => void)[] = [];

  constructor(app: App, options: { hostId: string; slots: number }) {
    this.#app = app;
    this.hostId = options.hostId;
    this.#slots = options.slots;
    this.#log = app.log.child({ workerId: this.workerId });
  }

  start(): void {
    const leaseMs = this.#app.limits.runLeaseS * 1000;
    this.#offCancel = this.#app.hub.onCancel((runId) => {
      for (const { hold, soft } of this.#running) if (hold.runId === runId) soft.abort(new RunCanceled());
    });
    this.#renewTimer = setInterval(() => this.#renew(), leaseMs / 5);
    this.#reconcileTimer = setInterval(() => this.#reconcile(), 1000);
  }

  get running(): number {
    return this.#running.size;
  }

  /** Executes a run until its end or its next wait. Does nothing when it is not to be taken. Never throws. */
  async execute(runId: string): Promise<void> {
    // Several queues feed the same slots.
    if (this.#busy >= this.#slots) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    else this.#busy++;
    try {
      if (this.#stopping) this.#missed.push(runId);
      else await this.#execute(runId);
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#busy--;
    }
  }

  async #execute(runId: string): Promise<void> {
    let run: Taken | null;
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
    const execution: Execution = { hold, soft, hard, done: finished.promise, renewedAt: takenAt, renewing: false };
    this.#running.add(execution);
    try {
      await this.#work(run, execution);
    } catch (error) {
      // The lease runs out and another worker takes it over.
      this.#log.error({ err: error, runId, attempt: hold.attempt }, 'execution abandoned');
    } finally {
      this.#running.delete(execution);
      finished.resolve();
    }
  }

  /** Stops taking runs, waits for those in progress, then hands the rest back. */
  async stop(graceMs: number): Promise<void> {
    this.#stopping = true;
    this.#offCancel();
    if (this.#reconcileTimer) clearInterval(this.#reconcileTimer);
    const all = () => Promise.all([...this.#running].map((execution) => execution.done));
    let timer: NodeJS.Timeout | undefined;
    const grace = new Promise<void>((resolve) => (timer = setTimeout(resolve, graceMs)));
    await Promise.race([all(), grace]);
    clearTimeout(timer);
    for (const execution of this.#running) execution.hard.abort(new WorkerStopping());
    await all();
    if (this.#renewTimer) clearInterval(this.#renewTimer);
    if (this.#missed.length > 0) await this.#app.use(Runs).wakeAgain(this.#missed);
  }

  async #work(run: Taken, execution: Execution): Promise<void> {
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
      let end: { readonly phase: string; readonly reason?: string };
      try {
        end = await withTrace(run.traceparent ?? undefined, `run ${kind.name}`, () =>
          kind.execute(context as RunContext<never>),
        );
      } catch (thrown) {
        await this.#endAfter(signal.aborted ? signal.reason : thrown, context, log);
        return;
      }
      // From here on it is decided: when the end cannot be written, the next execution finds every step complete.
      await context.flush();
      const { status } = phaseOf(kind, end.phase);
      const timedOut = status !== 'SUCCEEDED' && soft.signal.reason instanceof DeadlineExceeded;
      let ended = false;
      try {
        if (status === 'WAITING') await context.settle();
        else ended = await context.end({ ...end, timedOut });
      } catch (unwritten) {
        await this.#endAfter(unwritten, context, log);
        return;
      }
      if (status === 'WAITING') {
        await app.transact(system, (tx) => runs.wait(tx, hold, end));
        log.info({ phase: end.phase }, 'run waits');
        return;
      }
      if (!ended) await app.transact(system, (tx) => runs.finish(tx, hold, { ...end, timedOut }));
      log.info({ phase: end.phase }, 'run ended');
    } catch (error) {
      if (!(error instanceof Fenced)) throw error;
      log.warn('run is no longer ours; this execution stops');
    } finally {
      clearTimeout(deadline);
    }
  }

  /** What becomes of a run whose execution threw. @throws {Fenced} and what keeps the outcome from being written */
  async #endAfter(thrown: unknown, context: RunContext, log: Logger): Promise<void> {
    const { run, hold } = context;
    // A step that is complete and cannot be written is what happened first.
    const error = await context.settle().then(() => thrown, (unwritten: unknown) => unwritten); // prettier-ignore
    if (error instanceof Fenced) throw error;
    if (!isVerdict(error) && !(error instanceof WorkerStopping)) {
      log.error({ err: error }, 'run failed by a fault of the server');
      // That is no verdict on the run: another execution goes on when the database is back.
      if (isAway(error) || (await this.#databaseIsAway())) throw error;
    }
    await this.#endChildren(run, run.attempt, log);
    if (error instanceof WorkerStopping) {
      await this.#app.transact(system, (tx) => this.#app.use(Runs).handBack(tx, hold));
      log.info('run handed back');
      return;
    }
    await this.#endBy(error, context);
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
              reason: isVerdict(error)
                ? context.redact(error.message).slice(0, 2000)
                : `An internal error, reference ${context.run.id}.`,
              timedOut: error instanceof DeadlineExceeded,
            },
      );
    });
  }

  /** Ends what the run's executions up to this one started on this host and did not complete. */
  async #endChildren(run: Run, upTo: number, log: Logger): Promise<void> {
    if (upTo < 1) return; // attempts count from 1
    const children = await this.#app.db.runChild.findMany({
      where: { runId: run.id, hostId: this.hostId, attempt: { lte: upTo } },
    });
    for (const child of children) {
      const result = await endProcess(child, { graceMs: 0 });
      if (result !== 'GONE')
        log.warn({ pid: child.pid, attempt: child.attempt }, 'ended a process that was left behind');
      await this.#app.use(Runs).forgetChildren([child.id]);
    }
  }

  /** Ends processes on this host that no execution answers for any more. */
  async #endStrays(): Promise<void> {
    const runs = this.#app.use(Runs);
    for (const child of await runs.strayChildren(this.hostId)) {
      const result = await endProcess(child, { graceMs: 0 });
      if (result !== 'GONE') this.#log.warn({ runId: child.runId, pid: child.pid }, 'ended a process of no execution');
      await runs.forgetChildren([child.id]);
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
    for (const { renewedAt, hard, hold } of this.#running) {
      if (now - renewedAt > limitMs) hard.abort(new Fenced(hold.runId));
    }
    // Only those that are asked for: one that is taken in the meantime is not in the answer.
    const asked = [...this.#running].filter(({ hard, renewing }) => !hard.signal.aborted && !renewing);
    if (asked.length === 0) return;
    for (const execution of asked) execution.renewing = true;
    void this.#renewThese(asked, false).then(async (missing) => {
      // Whoever has locked one delays that one only.
      await Promise.all(missing.map((execution) => this.#renewThese([execution], true)));
    });
  }

  /** @returns those that are not ours any more, or locked by somebody; with `wait` those are told to stop */
  async #renewThese(asked: readonly Execution[], wait: boolean): Promise<Execution[]> {
    const now = performance.now();
    const missing: Execution[] = [];
    try {
      const ids = asked.map(({ hold }) => hold.runId);
      const rows = await this.#app.use(Runs).renew(this.workerId, ids, wait);
      const held = new Map(rows.map((row) => [row.id, row]));
      for (const execution of asked) {
        const { runId, attempt } = execution.hold;
        const row = held.get(runId);
        if (row?.attempt === attempt) {
          execution.renewedAt = now;
          if (row.status === 'CANCELING') execution.soft.abort(new RunCanceled());
        } else if (wait) {
          execution.hard.abort(new Fenced(runId));
        } else {
          missing.push(execution);
        }
      }
    } catch (error) {
      this.#log.warn({ err: error }, 'leases not renewed; trying again');
    }
    for (const execution of asked) if (!missing.includes(execution)) execution.renewing = false;
    return missing;
  }

  #reconcile(): void {
    if (this.#reconciling) return;
    this.#reconciling = true;
    Promise.all([this.#app.use(Runs).reconcile(), this.#endStrays()])
      .catch((error: unknown) => this.#log.warn({ err: error }, 'runs not reconciled; trying again'))
      .finally(() => {
        this.#reconciling = false;
      });
  }
}

/** An error that is the run's outcome rather than a fault of the server. */
const isVerdict = (error: unknown): error is Error => error instanceof DomainError || error instanceof RunCanceled;
