import type { Format } from './extractor.ts';

/** Media types of what is read. */
export const contentTypes: Readonly<Record<Format, string>> = {
  CSV: 'text/csv',
  TSV: 'text/tab-separated-values',
  XLSX: 'application/vnd.openxmlformats-officedocument.spreadsheetml.sheet',
  XLS: 'application/vnd.ms-excel',
  PDF: 'application/pdf',
  DOCX: 'application/vnd.openxmlformats-officedocument.wordprocessingml.document',
  HTML: 'text/html',
};
