import type { Application } from '#prisma';
import type { StepContext } from '#kernel/runs/context.ts';
import { DiskFull } from '#kernel/system-error.ts';
import { NotConfined } from '../errors.ts';
import { DeploymentSettings, userSlotOf } from './applications.ts';
import type { Built, Driver } from './driver.ts';
import { someInstance } from './drivers.ts';
import { environmentOf } from './environment.ts';
import { makerOf, noneWhenAway, patiently, variablesOf, type Context } from './execution.ts';
import { DeploymentHost, driverOf } from './host.ts';
import { SourceAccess } from './ports.ts';
import { Quotas } from './quotas.ts';
import { scanCommit } from './scan.ts';

const timeouts = { fetchS: 300, buildS: 1800 } as const;

export type Made = Built & { readonly commitSha: string };

/** Fetches a commit, has it scanned, and makes of it what can be started. What is left of one that fails is removed. */
export async function build(context: Context, application: Application): Promise<Made> {
  const checkedOut = new Set<string>();
  try {
    return await buildIn(context, application, checkedOut);
  } catch (error) {
    // At once: whoever tries again on a full disk needs the room. A worker that stops leaves it to the host's agent.
    if (!context.hardSignal.aborted) for (const path of checkedOut) await removeNow(context, path);
    throw error;
  }
}

/** What cannot be removed now is by the host's agent: it is not why the build failed. */
async function removeNow({ app, run }: Context, path: string): Promise<void> {
  try {
    await app.use(DeploymentHost).checkouts.remove(path);
  } catch (error) {
    app.log.warn({ err: error, runId: run.id }, 'a folder could not be removed after a build that failed');
  }
}

/** @param checkedOut is told of every folder that is made */
async function buildIn(context: Context, application: Application, checkedOut: Set<string>): Promise<Made> {
  const { app, input, run, hold } = context;
  const { git, checkouts } = app.use(DeploymentHost);
  const driver = driverOf(app, application);
  const user = checkouts.userOf(userSlotOf(application));
  const preview = await app.db.preview.findUnique({ where: { applicationId: application.id } });
  // Without a user of its own, a stranger's code would be the server to this machine.
  if (preview?.isFork && !user && driver.name === 'PROCESS')
    throw new NotConfined(
      'This host has no user for each application, so it does not build pull requests of forks: it needs the Docker driver, or a worker that runs as root.',
    );
  const checkout = async (step: StepContext, ref: string, timeoutMs: number) => {
    const { path } = await checkouts.prepare({
      applicationId: application.id,
      name: `${run.id}.${hold.attempt}`,
      userSlot: userSlotOf(application),
    });
    checkedOut.add(path);
    const lines = inOrder((line: string) => step.log(line));
    const credentials = await app.use(SourceAccess).credentials(application, step.signal);
    if (credentials) context.addSecrets([credentials.password]);
    if (credentials && preview?.isFork) {
      // As the same user it could read them while git runs.
      const watching = { applicationId: application.id, ...someInstance };
      if ((await app.db.release.count({ where: watching })) > 0)
        throw new NotConfined(
          'What runs of this fork could read what git fetches with. Its next commit is deployed by an approval, which replaces it.',
        );
      // So could what a build of it left behind, which had gone away from the build's own processes.
      await checkouts.endUser(userSlotOf(application));
    }
    const commit = await git.fetchCommit({
      ...(credentials ? { credentials } : {}),
      repositoryUrl: application.repositoryUrl,
      ref,
      // What was approved is this commit as the head of this pull request; whose repository it is in is not asked.
      ...(preview && ref === application.branch ? { pullRequest: preview.number } : {}),
      intoDir: path,
      ...user,
      signal: step.signal,
      timeoutMs,
      onOutput: lines.push,
      beforeStart: (child) => step.record(child),
    });
    await lines.done();
    return { path, ...commit };
  };

  const fetched = await context.step(
    'fetch',
    { timeoutS: timeouts.fetchS },
    async (step) => {
      // Once: an execution that takes over what is built does not ask again.
      await requireDisk(context, application, driver);
      const commit = await checkout(step, input.kind === 'BUILD' ? input.ref : '', timeouts.fetchS * 1000);
      await step.log(`Fetched ${commit.commitSha} ${commit.commitSubject}`);
      return { ...commit, attempt: hold.attempt };
    },
    async (tx, commit) => {
      await tx.db.deployment.update({
        where: { id: run.id },
        data: { commitSha: commit.commitSha, commitSubject: commit.commitSubject },
      });
    },
  );

  // A folder in which an earlier execution began to build is not built in again: the same commit is laid out anew.
  let folder = fetched.attempt === hold.attempt ? fetched.path : null;
  const laidOut = async (step: StepContext): Promise<string> =>
    (folder ??= (await checkout(step, fetched.commitSha, timeouts.fetchS * 1000)).path);

  if (run.inputVersion > 1) await scanCommit(context, application, laidOut);
  await context.moveTo('BUILDING');
  return context.step('build', { timeoutS: timeouts.buildS }, async (step) => {
    const path = await laidOut(step);
    const environment = environmentOf(await variablesOf(context));
    const { artifact, imageId } = await patiently(context, step, () =>
      driver.build({
        ...makerOf(context, application),
        source: path,
        buildCommand: application.buildCommand,
        startCommand: application.startCommand,
        environment,
        signal: step.signal,
        timeoutMs: timeouts.buildS * 1000,
        log: (line, stream) => step.log(line, stream),
        recordChild: (child) => step.record(child),
      }),
    );
    return { artifact, imageId, commitSha: fetched.commitSha };
  });
}

/** @throws {QuotaExceeded} the workspace has as much as it may {DiskFull} the host, or its engine, has too little left */
async function requireDisk({ app }: Context, { workspaceId }: Application, driver: Driver): Promise<void> {
  await app.use(Quotas).requireDisk(workspaceId);
  const { minFreeDiskMb } = app.use(DeploymentSettings);
  const least = minFreeDiskMb * 2 ** 20;
  if ((await app.use(DeploymentHost).checkouts.free()) < least) throw new DiskFull('the host', minFreeDiskMb);
  if (driver.name === 'PROCESS') return;
  // Of one that is away nothing is known: the build waits for it.
  const free = await driver.free().catch(noneWhenAway);
  if (free !== null && free < least) throw new DiskFull('the Docker engine', minFreeDiskMb);
}

/** Writes what a callback delivers, one after the other; `done` waits for all and tells of a failure. */
function inOrder<T>(write: (value: T) => Promise<void>): { push: (value: T) => void; done: () => Promise<void> } {
  let tail: Promise<void> = Promise.resolve();
  return {
    push(value) {
      tail = tail.then(() => write(value));
      tail.catch(() => undefined); // told by `done`
    },
    done: () => tail,
  };
}
