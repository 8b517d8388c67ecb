import { randomUUID } from 'node:crypto';
import type { TestContext } from 'vitest';
import { startDockerEngine, type DockerEngine } from './docker-engine.ts';

/** The image that test engines have for Node projects: the name of the default, made of this machine's files. */
export const nodeImage = 'node:24-slim';

/** An engine for the tests of one file, with an image for Node. */
export async function testEngine(): Promise<DockerEngine | { readonly missing: string }> {
  const engine = await startDockerEngine({ network: true });
  if ('missing' in engine) return engine;
  try {
    await engine.makeNode(nodeImage);
  } catch (error) {
    await engine.stop();
    throw error;
  }
  return engine;
}

/**
 * The engine; skips the test, and says so, where there is none.
 * @throws instead of skipping when REQUIRE_COUNTERPARTS is set
 */
export function present(engine: DockerEngine | { readonly missing: string }, context: TestContext): DockerEngine {
  if (!('missing' in engine)) return engine;
  const reason = `no Docker engine: ${engine.missing} (apt-get install -y docker.io, as root)`;
  if (process.env['REQUIRE_COUNTERPARTS']) throw new Error(reason);
  return context.skip(reason);
}

export const newRun = (): { applicationId: string; runId: string; attempt: number } => ({
  applicationId: randomUUID(),
  runId: randomUUID(),
  attempt: 1,
});
