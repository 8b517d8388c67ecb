/** `query_canceled`, which a statement timeout is. @see https://www.postgresql.org/docs/current/errcodes-appendix.html */
const canceled = '57014';
/** What Prisma, and `TransactionTimedOut`, call a transaction that took too long or could not begin in time. */
const transactionTimedOut = 'P2028';

/** Whether a statement or a transaction was given up because it took too long. It has changed nothing. */
export function tookTooLong(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  // Prisma wraps the driver's error in several ways.
  const { code, meta, cause } = error as {
    code?: unknown;
    meta?: { driverAdapterError?: { cause?: { originalCode?: unknown } } };
    cause?: { originalCode?: unknown };
  };
  return (
    code === transactionTimedOut ||
    [code, cause?.originalCode, meta?.driverAdapterError?.cause?.originalCode].includes(canceled)
  );
}
