import { keepCompiled } from './kernel/compile-cache.ts';

keepCompiled();
const { ConfigError, loadConfig } = await import('./config.ts');

/** Runs the server until a signal, or until its database is lost. */
async function main(): Promise<void> {
  const config = loadConfig(process.env);
  // After the configuration: what is wrong with it is said before anything else is loaded.
  const { start } = await import('./start.ts');
  const running = await start(config);
  const { log } = running.app;
  const stop = (why: string, exitCode: number) => {
    process.exitCode = exitCode;
    log.info({ why }, 'stopping');
    running.stop().then(
      () => log.info('stopped'),
      (error: unknown) => {
        log.error({ err: error }, 'stop failed');
        process.exit(1);
      },
    );
  };
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => stop(signal, 0));
  void running.lost.then((error) => {
    log.error({ err: error }, 'the embedded database was lost');
    stop('database lost', 1);
  });
}

main().catch((error: unknown) => {
  if (error instanceof ConfigError) console.error(error.message);
  else console.error(error);
  process.exitCode = 1;
});
