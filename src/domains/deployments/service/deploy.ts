import { setTimeout as delay } from 'node:timers/promises';
import { Prisma, type Application, type Release } from '#prisma';
import type { Transaction } from '#kernel/db/transact.ts';
import { newId } from '#kernel/ids.ts';
import type { StepContext } from '#kernel/runs/context.ts';
import { RunCanceled } from '#kernel/runs/errors.ts';
import type { Json } from '#kernel/runs/model.ts';
import { DriverUnavailable } from '../../../integrations/docker/index.ts';
import { DomainError } from '#kernel/errors.ts';
import { NothingToRestore, Unhealthy } from '../errors.ts';
import { releaseActivated } from '../events.ts';
import { DeploymentSettings, isAddressPort, lockApplication, notifyHost, userSlotOf } from './applications.ts';
import { build, type Made } from './build.ts';
import type { Driver, Opaque, Probe } from './driver.ts';
import { limitsOf, noInstance, runningOf } from './drivers.ts';
import { environmentOf, secretsOf } from './environment.ts';
import { makerOf, noneWhenAway, patiently, variablesOf, type Context } from './execution.ts';
import { beginServing } from './serving.ts';
import { DeploymentHost, driverOf } from './host.ts';

const timeouts = { startS: 60, activateS: 90 } as const;
/** How long an activation waits for the address proxy to follow, milliseconds. */
const followMs = 20_000;

/** The release that the run brings up. */
type Candidate = {
  readonly releaseId: string;
  /** Where the output of this instance begins; null: it served already. */
  readonly logFrom: number | null;
};

/** Brings a commit, or a former release, to an application's address; what served before serves on until it is healthy. */
export async function deploy(context: Context): Promise<{ phase: string; reason?: string }> {
  const { app, input, run } = context;
  const application = await app.db.application.findUniqueOrThrow({ where: { id: input.applicationId } });
  const variables = await variablesOf(context);
  context.addSecrets(secretsOf(variables));
  // An earlier execution had decided that it failed.
  if (run.phase === 'ROLLING_BACK') return rollBack(context, application, run.statusReason ?? 'It failed.');

  const built = input.kind === 'BUILD' ? await build(context, application) : null;
  await context.moveTo('DEPLOYING');
  let healthy: Candidate | null = null;
  try {
    const candidate = await startCandidate(context, application, built);
    await context.moveTo('HEALTH_CHECKING');
    await checkHealth(context, application, candidate);
    healthy = candidate;
    const { problem } = await activate(context, application, candidate);
    return { phase: 'DEPLOYED', ...(problem === null ? {} : { reason: problem }) };
  } catch (error) {
    if (context.hardSignal.aborted) throw error;
    // What was switched is deployed, whatever came after.
    if (healthy && (await serves(context, application, healthy))) {
      return { phase: 'DEPLOYED', reason: 'It serves, but its activation did not complete in time.' };
    }
    const reason = context.signal.aborted ? (context.signal.reason as unknown) : error;
    if (reason instanceof RunCanceled || !(reason instanceof DomainError)) throw error;
    return rollBack(context, application, context.redact(reason.message));
  }
}

async function serves({ app }: Context, { id }: Application, { releaseId }: Candidate): Promise<boolean> {
  return (await app.db.application.count({ where: { id, activeReleaseId: releaseId } })) > 0;
}

/** Starts an instance of the new release, or of the one to restore, next to what serves. */
async function startCandidate(context: Context, application: Application, built: Made | null): Promise<Candidate> {
  const { app, input, run } = context;
  const driver = driverOf(app, application);
  const restored =
    input.kind === 'RESTORE' ? await app.db.release.findUniqueOrThrow({ where: { id: input.releaseId } }) : null;
  const from = restored ?? built;
  if (!from) throw new Error('Neither built nor restored');
  const releaseId = restored?.id ?? newId();
  const started = await context.step(
    'start',
    { timeoutS: timeouts.startS + app.use(DeploymentSettings).driverPatienceS },
    async (step) => {
      if (restored && (await settled(context, restored.id, step)).status === 'ACTIVE') {
        await step.log('This release serves already.');
        return { releaseId, instance: null, host: null, port: 0, uid: null, logFrom: null };
      }
      const instance = await patiently(context, step, () =>
        start(context, application, driver, from.artifact as Opaque, step),
      );
      return { releaseId, ...instance, host: instance.host ?? null };
    },
    async (tx, { instance, host: instanceHost, port: instancePort, uid: instanceUid }) => {
      if (instance === null) return;
      const { environmentVersion } = await tx.db.deployment.findUniqueOrThrow({ where: { id: run.id } });
      const runs = { instance, instanceHost, instancePort, instanceUid, environmentVersion };
      if (restored) {
        const { count } = await tx.db.release.updateMany({
          where: { id: releaseId, status: 'RETIRED', instance: { equals: Prisma.DbNull }, prunedAt: null },
          data: { ...runs, status: 'CANDIDATE' },
        });
        if (count === 0) throw new NothingToRestore('This release cannot be restored any more.');
        return;
      }
      await tx.db.release.create({
        data: {
          id: releaseId,
          applicationId: application.id,
          deploymentId: run.id,
          commitSha: from.commitSha,
          driver: driver.name,
          artifact: from.artifact as Opaque,
          imageId: from.imageId,
          ...runs,
        },
      });
    },
  );
  return { releaseId: started.releaseId, logFrom: started.logFrom };
}

const start = async (context: Context, application: Application, driver: Driver, artifact: Opaque, step: StepContext) =>
  driver.start({
    ...makerOf(context, application),
    artifact,
    environment: environmentOf(await variablesOf(context)),
    limits: limitsOf(application),
    log: (line) => step.log(line),
    recordChild: (child) => step.record(child),
  });

/** The release to restore, once its former instance has ended: the host's agent lets requests in flight end first. */
async function settled({ app }: Context, id: string, step: StepContext): Promise<Release> {
  for (;;) {
    const release = await app.db.release.findUniqueOrThrow({ where: { id } });
    if (release.prunedAt) throw new NothingToRestore('The files of this release were removed.');
    if (release.status === 'ACTIVE' || release.instance === null) return release;
    await delay(100, undefined, { signal: step.signal });
  }
}

const probeTimeoutMs = 2000;

async function checkHealth(context: Context, application: Application, candidate: Candidate): Promise<void> {
  const { app, run } = context;
  const driver = driverOf(app, application);
  let evidence: Json = null;
  try {
    await context.step('health', { timeoutS: application.healthTimeoutS + 15 }, async (step) => {
      let release = await app.db.release.findUniqueOrThrow({ where: { id: candidate.releaseId } });
      let { logFrom } = candidate;
      let away = false;
      /** Null: the driver cannot tell. */
      const living = async (): Promise<boolean | null> => {
        try {
          const { instance } = runningOf(release);
          return instance !== null && (await driver.alive(instance));
        } catch (error) {
          if (!(error instanceof DriverUnavailable)) throw error;
          if (!away) await step.log(error.message, 'SYSTEM', 'WARN');
          away = true;
          return null;
        }
      };
      if (context.hold.attempt > 1 && logFrom !== null && (await living()) === false)
        ({ release, logFrom } = await startAgain(context, application, release, step, 'its worker'));
      const output = new AbortController();
      const until = AbortSignal.any([output.signal, step.signal]);
      const follow = (): Promise<unknown> => {
        const { artifact, instance } = runningOf(release);
        if (logFrom === null || instance === null) return Promise.resolve(null);
        return followOutput(driver.follow({ artifact, instance }, logFrom, until), step);
      };
      let following = follow();
      let last: Probe | null = null;
      try {
        const deadline = Date.now() + application.healthTimeoutS * 1000;
        for (let waitMs = 50; ; waitMs = Math.min(waitMs * 1.5, 1000)) {
          step.signal.throwIfAborted();
          const lives = await living();
          const { instance } = runningOf(release);
          last = await driver.probe({
            applicationId: application.id,
            userSlot: userSlotOf(application),
            instance: instance ?? {},
            port: release.instancePort ?? 0,
            path: application.healthCheckPath,
            timeoutMs: probeTimeoutMs,
            signal: step.signal,
          });
          if (last.ok && lives) break;
          if (lives === false) {
            // It went with what ran it: that says nothing about the release.
            if (!away || logFrom === null) throw new Unhealthy(await endingOf(driver, instance));
            away = false;
            await following;
            ({ release, logFrom } = await startAgain(context, application, release, step, 'the Docker engine'));
            following = follow();
          }
          if (Date.now() > deadline)
            throw new Unhealthy(
              `${application.healthCheckPath} was not healthy within ${application.healthTimeoutS} s: ${told(last)}`,
            );
          await delay(waitMs, undefined, { signal: step.signal });
        }
        await step.log(
          `Healthy: ${application.healthCheckPath} answered ${last.status} in ${Math.round(last.latencyMs)} ms.`,
        );
      } catch (error) {
        // A check that was cut short says nothing about the instance.
        if (context.signal.aborted) throw error;
        const { artifact, instance } = runningOf(release);
        const lines = instance && (await driver.tail({ artifact, instance }, 50).catch(noneWhenAway));
        evidence = {
          at: new Date().toISOString(),
          path: application.healthCheckPath,
          lastResponse: last
            ? {
                ok: last.ok,
                status: last.status ?? null,
                bodyStart: last.bodyStart === undefined ? null : context.redactCut(last.bodyStart),
                error: last.error === undefined ? null : context.redact(last.error),
                latencyMs: last.latencyMs,
              }
            : null,
          lastLines: (lines ?? []).map((line) => context.redact(line)),
        };
        throw error;
      } finally {
        output.abort();
        const failure = await following;
        if (failure !== null)
          context.app.log.warn({ err: failure, runId: run.id }, 'output of an instance not followed');
      }
      return {};
    });
  } catch (error) {
    if (evidence !== null && !context.hardSignal.aborted) {
      const healthEvidence = evidence as Prisma.InputJsonValue;
      await context.write((tx) => tx.db.deployment.update({ where: { id: run.id }, data: { healthEvidence } }));
    }
    throw error;
  }
}

async function endingOf(driver: Driver, instance: Opaque | null): Promise<string> {
  const why = instance && (await driver.ending(instance).catch(noneWhenAway));
  return `The instance ended before it was healthy.${why ? ` ${why}` : ''}`;
}

const told = (probe: Probe): string => (probe.status ? `it answered ${probe.status}` : (probe.error ?? 'no answer'));

/** A candidate that died with what had started it is started once more. */
async function startAgain(
  context: Context,
  application: Application,
  release: Release,
  step: StepContext,
  withWhat: string,
): Promise<{ release: Release; logFrom: number }> {
  await step.log(`The instance ended with ${withWhat}: starting it again.`, 'SYSTEM', 'WARN');
  const driver = driverOf(context.app, application);
  const { artifact, instance: former } = runningOf(release);
  const {
    instance,
    host = null,
    port,
    uid,
    logFrom,
  } = await patiently(context, step, async () => {
    if (former) await driver.stop(former, 0);
    return start(context, application, driver, artifact, step);
  });
  const started = await context.write((tx) =>
    tx.db.release.update({
      where: { id: release.id },
      data: { instance, instanceHost: host, instancePort: port, instanceUid: uid },
    }),
  );
  return { release: started, logFrom };
}

/**
 * Switches the address, by one conditional update, and waits until the proxy follows. Past the update there is no way
 * back: a cancel is heard until then, and a proxy that does not follow in time is a problem to tell, not a failure.
 */
async function activate(
  context: Context,
  application: Application,
  candidate: Candidate,
): Promise<{ problem: string | null }> {
  const { app } = context;
  const host = app.use(DeploymentHost);
  return context.step('activate', { timeoutS: timeouts.activateS, uncancelable: true }, async (step) => {
    if (!(await serves(context, application, candidate))) {
      context.signal.throwIfAborted();
      const release = await app.db.release.findUniqueOrThrow({ where: { id: candidate.releaseId } });
      const { instance } = runningOf(release);
      const driver = driverOf(app, application);
      if (!instance || !(await patiently(context, step, () => driver.alive(instance))))
        throw new Unhealthy('The instance ended before it got traffic.');
      await reserveAddress(context, application, step);
    }
    const version = await context.write(async (tx, run) => {
      const row = await lockApplication(tx, application.id);
      if (!row) throw new Unhealthy('The application was removed.');
      if (row.activeReleaseId === candidate.releaseId) return row.routeVersion; // an earlier execution switched it
      // The cancel takes the lock of the run's row, too: it comes before this, or finds that it came too late.
      if (run.status === 'CANCELING') throw new RunCanceled();
      context.signal.throwIfAborted();
      if (row.activeReleaseId) {
        await tx.db.release.update({
          where: { id: row.activeReleaseId },
          data: { status: 'RETIRED', retiredAt: new Date() },
        });
      }
      await beginServing(tx, candidate.releaseId, run.id);
      const updated = await tx.db.application.update({
        where: { id: application.id },
        data: {
          activeReleaseId: candidate.releaseId,
          routeVersion: { increment: 1 },
          addressRunId: null,
        },
      });
      await tx.db.$executeRaw`select pg_notify('switchyard_routes', '')`;
      tx.append({
        type: releaseActivated,
        workspaceId: application.workspaceId,
        subjectId: application.id,
        run,
        data: { releaseId: candidate.releaseId, previousReleaseId: row.activeReleaseId },
      });
      notifyHost((key) => app.wakeUps.publish(key), tx, application.hostId);
      return updated.routeVersion;
    });
    const { port } = await app.db.application.findUniqueOrThrow({
      where: { id: application.id },
      select: { port: true },
    });
    try {
      await host.route(application.id, version, AbortSignal.any([step.signal, AbortSignal.timeout(followMs)]));
    } catch (error) {
      step.signal.throwIfAborted();
      const problem = `It serves, but its address does not follow yet: ${error instanceof Error ? error.message : String(error)}`;
      await step.log(problem, 'SYSTEM', 'WARN');
      return { problem };
    }
    await step.log(`Serving on http://127.0.0.1:${port}`);
    return { problem: null };
  });
}

/**
 * Makes sure that the application has an address that the proxy can open, before anything is switched to it. It is the
 * run's until the switch; a run that fails gives it back (`onEnd` of the kind).
 * @throws {Unhealthy} when the port that it was given is in use, or all of the range are
 */
async function reserveAddress(context: Context, application: Application, step: StepContext): Promise<void> {
  const { app, run } = context;
  const host = app.use(DeploymentHost);
  const { addressPorts } = app.use(DeploymentSettings);
  const { id } = application;
  for (let least = addressPorts.from; ;) {
    const { port, own } = await context.write(async (tx) => {
      const row = await lockApplication(tx, id);
      if (!row) throw new Unhealthy('The application was removed.');
      // What was asked for, or was visited already, is no other; what an earlier execution chose may be.
      const own = row.port !== null && (row.portAsked || row.routeVersion > 0);
      const port = own && row.port !== null ? row.port : await freeAddress(tx, context, application, least);
      if (row.activeReleaseId === null && !isAddressPort(addressPorts, port))
        throw new Unhealthy(
          `The application's port ${port} is not from ${addressPorts.from} to ${addressPorts.to}: it cannot be opened.`,
        );
      await tx.db.application.update({ where: { id }, data: { port, addressRunId: run.id } });
      return { port, own };
    });
    const problem = await host.addressProblem(port, step.signal);
    if (problem === null) return;
    if (own) throw new Unhealthy(`The application's port ${port} cannot be opened: ${problem}`);
    await step.log(`Port ${port} is taken by another program (${problem}): trying the next one.`, 'SYSTEM', 'WARN');
    least = port + 1;
  }
}

/** The lowest port of the range, from `least` on, that no other application of the host has. */
async function freeAddress(
  tx: Transaction,
  context: Context,
  application: Application,
  least: number,
): Promise<number> {
  const { from, to } = context.app.use(DeploymentSettings).addressPorts;
  // One at a time for each host: what two would find free at once is decided here.
  await tx.db.$queryRaw`select 1 from host where id = ${application.hostId}::uuid for update`;
  const others = await tx.db.application.findMany({
    where: { hostId: application.hostId, port: { gte: from, lte: to }, id: { not: application.id } },
    select: { port: true },
  });
  const taken = new Set(others.map(({ port }) => port));
  for (let port = least; port <= to; port++) if (!taken.has(port)) return port;
  throw new Unhealthy(`All addresses from ${from} to ${to} are taken.`);
}

/** Ends the candidate and makes sure that what served before still does. */
async function rollBack(
  context: Context,
  application: Application,
  reason: string,
): Promise<{ phase: string; reason: string }> {
  const { app, run, input } = context;
  const host = app.use(DeploymentHost);
  const driver = driverOf(app, application);
  const { activeReleaseId } = await app.db.application.findUniqueOrThrow({ where: { id: application.id } });
  if (!activeReleaseId) return { phase: 'FAILED', reason };
  await context.moveTo('ROLLING_BACK', reason);
  const timeoutS = application.healthTimeoutS + 60;
  const outcome = await context.step('rollback', { timeoutS, uncancelable: true }, async (step) => {
    const where = input.kind === 'RESTORE' ? { id: input.releaseId } : { deploymentId: run.id };
    const candidate = await app.db.release.findFirst({ where: { ...where, status: 'CANDIDATE' } });
    if (candidate) await endCandidate(context, driver, candidate, step);
    const deadline = Date.now() + application.healthTimeoutS * 1000;
    for (;;) {
      step.signal.throwIfAborted();
      // Read again each time: the host's agent starts it anew when it has died.
      const serving = await app.db.release.findUnique({ where: { id: activeReleaseId } });
      const instance = serving && runningOf(serving).instance;
      const probe =
        serving?.instancePort && instance
          ? await host.driver(serving.driver).probe({
              applicationId: application.id,
              userSlot: userSlotOf(application),
              instance,
              port: serving.instancePort,
              path: application.healthCheckPath,
              timeoutMs: probeTimeoutMs,
              signal: step.signal,
            })
          : null;
      if (probe?.ok) {
        await step.log(`The release of commit ${serving?.commitSha} serves on, and is healthy.`);
        return { restored: true };
      }
      if (Date.now() > deadline) {
        await step.log('The release that served before is not healthy either.', 'SYSTEM', 'ERROR');
        return { restored: false };
      }
      await delay(250, undefined, { signal: step.signal });
    }
  });
  return outcome.restored ? { phase: 'ROLLED_BACK', reason } : { phase: 'ROLLBACK_FAILED', reason };
}

async function endCandidate(context: Context, driver: Driver, candidate: Release, step: StepContext): Promise<void> {
  const { instance } = runningOf(candidate);
  try {
    if (instance) {
      await driver.stop(instance, 2000);
      await step.log('Ended the instance that failed.');
    }
  } catch (error) {
    if (!(error instanceof DriverUnavailable)) throw error;
    await step.log(`${error.message} The instance that failed is ended when it does.`, 'SYSTEM', 'WARN'); // by the host's agent
    return;
  }
  await context.write((tx) => tx.db.release.update({ where: { id: candidate.id }, data: noInstance }));
}

/** Resolves with the failure that ended it early, null: none. It runs beside the check, so it must not reject. */
async function followOutput(lines: AsyncIterable<string>, step: StepContext): Promise<unknown> {
  try {
    for await (const line of lines) await step.log(line, 'STDOUT');
    return null;
  } catch (error) {
    return error;
  }
}
