//! Reads a file of placements line by line and packs them into requests, each line checked. Holds
//! one batch at a time, however long the file (I12).

use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use maia_common::limits;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};

use super::shown;
use crate::core::placements::load::parse_line;

/// Read from the file at once.
const READ_BYTES: usize = 1 << 20;

/// A line of the file that is an item.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its number in the file, from 1.
    pub number: usize,
    /// As it stands there, without its end.
    pub text: Bytes,
}

/// Lines that go into one request.
#[derive(Debug)]
pub struct Batch {
    /// Its number, from 0.
    pub number: usize,
    /// At least one.
    pub lines: Vec<Line>,
    /// How much of the file is read once this is done.
    pub until_byte: u64,
}

impl Batch {
    /// The number of its first line.
    pub fn first(&self) -> usize {
        self.lines.first().map_or(0, |line| line.number)
    }

    /// The number of its last line.
    pub fn last(&self) -> usize {
        self.lines.last().map_or(0, |line| line.number)
    }
}

/// The file as batches. Cancel-safe: what was read is kept here.
pub struct Batches {
    input: Box<dyn AsyncBufRead + Unpin>,
    name: String,
    part: Vec<u8>,
    lines_read: usize,
    bytes_read: u64,
    made: usize,
    lines: Vec<Line>,
    lines_bytes: usize,
    /// A line that no longer fitted into the last batch.
    carried: Option<Line>,
    ended: bool,
}

impl Batches {
    /// The file, or with `-` standard input; and its size, if it has one.
    ///
    /// # Errors
    /// When it can't be opened.
    pub async fn open(file: &Path) -> anyhow::Result<(Self, Option<u64>)> {
        if file.as_os_str() == "-" {
            let input = BufReader::with_capacity(READ_BYTES, tokio::io::stdin());
            return Ok((Self::over(Box::new(input), shown(file)), None));
        }
        let cant = || format!("can't read {}", shown(file));
        let opened = tokio::fs::File::open(file).await.with_context(cant)?;
        let metadata = opened.metadata().await.with_context(cant)?;
        let size_bytes = metadata.is_file().then_some(metadata.len());
        let input = BufReader::with_capacity(READ_BYTES, opened);
        Ok((Self::over(Box::new(input), shown(file)), size_bytes))
    }

    fn over(input: Box<dyn AsyncBufRead + Unpin>, name: String) -> Self {
        Self {
            input,
            name,
            part: Vec::new(),
            lines_read: 0,
            bytes_read: 0,
            made: 0,
            lines: Vec::new(),
            lines_bytes: 0,
            carried: None,
            ended: false,
        }
    }

    /// The next batch; none at the end.
    ///
    /// # Errors
    /// A line that is no item, or too long; what reading says. Nothing of the batch with that line
    /// is returned then, nor of any later one.
    pub async fn next(&mut self) -> anyhow::Result<Option<Batch>> {
        while !self.ended {
            let before = self.bytes_read;
            let Some(line) = self.next_line().await? else {
                self.ended = true;
                break;
            };
            if line.text.is_empty() {
                continue;
            }
            parse_line(line.number, &line.text).with_context(|| {
                let text = "nothing of its batch was sent";
                format!("{} has a line that is no placement, {text}", self.name)
            })?;
            let full = self.lines.len() >= limits::MAX_LOAD_ITEMS
                || self.lines_bytes + line.text.len() >= limits::MAX_LOAD_BODY_BYTES;
            if full {
                self.carried = Some(line);
                return Ok(Some(self.take(before)));
            }
            self.push(line);
        }
        Ok((!self.lines.is_empty()).then(|| self.take(self.bytes_read)))
    }

    fn push(&mut self, line: Line) {
        self.lines_bytes += line.text.len() + 1;
        self.lines.push(line);
    }

    fn take(&mut self, until_byte: u64) -> Batch {
        let batch = Batch {
            number: self.made,
            lines: std::mem::take(&mut self.lines),
            until_byte,
        };
        (self.made, self.lines_bytes) = (self.made + 1, 0);
        if let Some(line) = self.carried.take() {
            self.push(line);
        }
        batch
    }

    /// The next line without the white space around it, however long it takes to come.
    async fn next_line(&mut self) -> anyhow::Result<Option<Line>> {
        loop {
            let cant = || format!("can't read {}", self.name);
            let available = self.input.fill_buf().await.with_context(cant)?;
            let end = available.iter().position(|byte| *byte == b'\n');
            let at_end = available.is_empty();
            let used = end.map_or(available.len(), |end| end + 1);
            self.part.extend_from_slice(&available[..used]);
            self.input.consume(used);
            self.bytes_read += used as u64;
            if self.part.len() > limits::MAX_LOAD_BODY_BYTES {
                let number = self.lines_read + 1;
                anyhow::bail!("{}: line {number} is too long to be a placement", self.name);
            }
            if at_end && self.part.is_empty() {
                return Ok(None);
            }
            if end.is_some() || at_end {
                self.lines_read += 1;
                let text = Bytes::copy_from_slice(self.part.trim_ascii());
                self.part.clear();
                return Ok(Some(Line {
                    number: self.lines_read,
                    text,
                }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(text: &'static str) -> Batches {
        Batches::over(Box::new(text.as_bytes()), "the test".to_owned())
    }

    fn item(tenant: usize) -> String {
        format!(r#"{{"tenant":"t{tenant}","primary_region":"a"}}"#)
    }

    #[tokio::test]
    async fn lines_keep_their_numbers_and_empty_ones_are_skipped() {
        let text = format!("\n{}\n  \r\n{}", item(1), item(2)).leak();
        let mut batches = over(text);
        let batch = batches.next().await.unwrap().unwrap();
        let numbers: Vec<usize> = batch.lines.iter().map(|line| line.number).collect();
        assert_eq!(numbers, [2, 4]);
        assert_eq!(batch.until_byte, text.len() as u64);
        assert!(batches.next().await.unwrap().is_none());
        assert!(batches.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn batches_are_bounded_and_nothing_is_lost_between_them() {
        let count = limits::MAX_LOAD_ITEMS * 2 + 1;
        let text: String = (0..count).map(|n| item(n) + "\n").collect();
        let mut batches = over(text.leak());
        let (mut sizes, mut next) = (Vec::new(), 1);
        while let Some(batch) = batches.next().await.unwrap() {
            assert_eq!(batch.number, sizes.len());
            assert_eq!(batch.first(), next);
            next = batch.last() + 1;
            sizes.push(batch.lines.len());
        }
        let full = limits::MAX_LOAD_ITEMS;
        assert_eq!(sizes, [full, full, 1]);
    }

    #[tokio::test]
    async fn a_malformed_line_is_named_and_its_batch_kept_back() {
        let text: String = (0..=limits::MAX_LOAD_ITEMS)
            .map(|n| item(n) + "\n")
            .collect();
        let mut batches = over((text + "{\"tenant\":\"x\"}\n").leak());
        assert!(batches.next().await.unwrap().is_some());
        let error = format!("{:#}", batches.next().await.unwrap_err());
        let line = format!("line {}", limits::MAX_LOAD_ITEMS + 2);
        assert!(
            error.contains(&line) && error.contains("primary_region"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_line_without_end_is_refused() {
        let mut batches = over(Box::leak(
            " ".repeat(limits::MAX_LOAD_BODY_BYTES + 1).into_boxed_str(),
        ));
        let error = batches.next().await.unwrap_err().to_string();
        assert!(error.contains("line 1 is too long"), "{error}");
    }
}
