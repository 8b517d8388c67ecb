import type { Transaction } from '#kernel/db/transact.ts';

/**
 * Corrections of earlier jobs of the same document, for cells of this job that say the same at the same place: the same
 * citation and the same extracted text; where several cells have the same, only the one in the same row and column. Of
 * several corrections the newest. It must mean the same in the column as it is now: the
 * column has the type that the correction was read by, or takes any text. Cells that somebody has looked at are left
 * alone, so that it may be done twice. A statement for all of them, and one for what the tables say.
 */
export async function carryOver(tx: Transaction, jobId: string): Promise<void> {
  const carried = await tx.db.$queryRaw<{ table_id: string }[]>`
    with newest as (
      select distinct on (k.citation, k.extracted_text, k.row, k."column") k.*
      from cell_correction k
      join extraction_job j on j.id = ${jobId}::uuid and k.document_id = j.document_id
      join extracted_table t on t.id = k.table_id and t.job_id <> j.id
      order by k.citation, k.extracted_text, k.row, k."column", k.created_at desc, k.version desc, k.id desc
    ), found as (
      select c.table_id, c."column", c.row, c.text, c.needs_review, k.id as carried_from_id, k.document_id, k.to_text,
        k.extracted_text, k.citation, col.type as column_type, k.reason, k.actor_id, k.created_at, k.version,
        count(*) over (partition by k.id) = 1 or (c.row = k.row and c."column" = k."column") as same,
        case when col.type = k.column_type then k.type when k.to_text = '' then 'EMPTY' else 'TEXT' end::cell_type as type,
        case when col.type = k.column_type then k.value end as value,
        case when col.type = k.column_type then k.number end as number
      from newest k
      join extracted_table t on t.job_id = ${jobId}::uuid
      join extracted_cell c on c.table_id = t.id and c.text = k.extracted_text and c.citation = k.citation and c.version = 0
      join extracted_column col on col.table_id = t.id and col.position = c."column"
      where (col.type = k.column_type or col.type = 'TEXT') and not exists (
        select 1 from cell_correction d join extracted_table m on m.id = d.table_id
        where m.job_id = ${jobId}::uuid and d.carried_from_id = k.id)
    ), cells as (
      select distinct on (table_id, "column", row) * from found where same
      order by table_id, "column", row, created_at desc, version desc, carried_from_id desc
    ), history as (
      insert into cell_correction (id, table_id, document_id, "column", row, version, from_text, to_text, extracted_text,
        citation, column_type, type, value, number, reason, carried_from_id, actor_id)
      select gen_random_uuid(), table_id, document_id, "column", row, 1, text, to_text, extracted_text, citation,
        column_type, type, value, number, reason, carried_from_id, actor_id
      from cells
    ), changed as (
      update extracted_cell c set text = k.to_text, type = k.type, value = k.value, number = k.number, confidence = 1,
        note = null, needs_review = false, version = 1
      from cells k where c.table_id = k.table_id and c."column" = k."column" and c.row = k.row
    )
    select distinct table_id from cells`;
  if (carried.length === 0) return;
  await tx.db.$executeRaw`
    update extracted_table t set updated_at = now(), review_count = (
      select count(*) from extracted_cell c where c.table_id = t.id and c.needs_review
    ) where t.id = any(${carried.map((one) => one.table_id)}::uuid[])`;
}
