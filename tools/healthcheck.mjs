// @ts-check
// Health check of the container image, which has no curl. A process without the role `api` listens on nothing: there it
// only says that the container runs.
const { env } = process;
const roles = (env['SWITCHYARD_ROLES'] || 'api,worker').split(',').map((role) => role.trim());
const wildcard = /^(?:0\.0\.0\.0|::|)$/;
const host = env['HOST'] ?? '';
if (roles.includes('api')) {
  const address = wildcard.test(host) ? '127.0.0.1' : host.includes(':') ? `[${host}]` : host;
  const response = await fetch(`http://${address}:${env['PORT'] || 4000}/health/ready`, {
    signal: AbortSignal.timeout(4000),
  });
  if (!response.ok) {
    console.error(`${response.status} ${await response.text()}`);
    process.exitCode = 1;
  }
}
